"""Images among inputs: what looks like one, the same mirrored, and random ones.

Random images share with photographs and drawings what noise lacks: edges, areas, a falling spectrum.
Overlapping shapes of one colour ("dead leaves", Lee, Mumford and Huang 2001) and noise whose spectrum falls
with frequency stand in for real images (Baradad et al. 2021, arXiv:2106.05963).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

COLOURS = (1, 3, 4)
FEW = 1 << 24  # elements of images: with more of them mirrored ones are not needed
PART = 1 << 21  # elements that are drawn at once
SHAPES = 30  # painted one over the other
CONTRAST = (0.3, 2.0)
OFFSET = 1.0


def is_image(values: np.ndarray) -> bool:
    """Tell whether values look like images: [n, colours, height, width] or [n, height, width, colours]."""
    sizes = values.shape
    return values.dtype.kind == "f" and len(sizes) == 4 and (sizes[1] in COLOURS or sizes[3] in COLOURS)


def is_last(values: np.ndarray) -> bool:
    """Tell whether the channels of an image are its last axis."""
    return values.shape[1] not in COLOURS


def mirrored(batches: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Copy batches of inputs, left and right of their images exchanged.

    None where no input is an image, and none where there are many images already.
    """
    images = {name for name, values in batches[0].items() if is_image(values)} if batches else set()
    if not images or sum(batch[name].size for batch in batches for name in images) > FEW:
        return []
    return [{n: _turned(v) if n in images else v for n, v in batch.items()} for batch in batches]


def _turned(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(values, axis=2 if is_last(values) else 3))


def random_images(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Make images [count, channels, height, width] of about zero mean and unit deviation, in float32.

    Half are shapes, a quarter smooth noise, a quarter white noise; contrast and brightness vary widely. What
    is drawn in float64 on the way is a part of a few million elements.
    """
    smooth, white = count // 4, count // 4
    values = np.empty((count, *shape), np.float32)
    each, at = max(PART // int(np.prod(shape)), 1), 0
    for number, draw in ((count - smooth - white, _leaves), (smooth, _smooth), (white, _white)):
        for start in range(0, number, each):
            part = draw(min(each, number - start), shape, rng)
            values[at : at + len(part)] = part
            at += len(part)
    contrast = np.exp(rng.uniform(np.log(CONTRAST[0]), np.log(CONTRAST[1]), (count, 1, 1, 1)))
    offset = OFFSET * rng.standard_normal((count, 1, 1, 1))
    for image, scale, shift in zip(values, contrast, offset, strict=True):
        image[:] = image * scale + shift
    _reorder(values, rng.permutation(count))
    return values


def _reorder(values: np.ndarray, order: np.ndarray) -> None:
    """Let every row hold what the row of its number in `order` held, with room for one row beside them."""
    done = np.zeros(len(order), dtype=bool)
    for start in np.flatnonzero(order != np.arange(len(order))).tolist():
        if done[start]:
            continue
        first, place = values[start].copy(), start
        while not done[place]:
            done[place], source = True, int(order[place])
            values[place] = first if source == start else values[source]
            place = source


def _white(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, *shape))


def _leaves(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Paint ellipses and rectangles, of sizes from a twentieth to half of the image."""
    channels, height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    result = np.empty((count, *shape))
    for image in result:
        image[:] = 0.8 * rng.standard_normal()
        for _ in range(SHAPES):
            radius = np.exp(rng.uniform(np.log(0.05), np.log(0.5))) * max(height, width)
            y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
            stretch = np.exp(0.5 * rng.standard_normal())
            along = ((columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)) / stretch
            across = ((rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)) * stretch
            if rng.random() < 0.5:
                inside = along**2 + across**2 < radius**2
            else:
                inside = (np.abs(along) < radius) & (np.abs(across) < radius)
            colour = rng.standard_normal() + 0.4 * rng.standard_normal(channels)
            image[:, inside] = colour[:, None]
    return result + 0.1 * rng.standard_normal(result.shape)


def _smooth(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw noise whose amplitude falls with frequency, by a power from 0.8 to 2; channels go together."""
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    frequency[0, 0] = 1.0
    drawn = rng.standard_normal((2, count, channels, *frequency.shape))
    spectrum = (drawn[0] + 1j * drawn[1]) / frequency ** rng.uniform(0.8, 2.0, (count, 1, 1, 1))
    values = np.fft.irfft2(spectrum, s=(height, width))
    values -= values.mean(axis=(2, 3), keepdims=True)
    values /= np.maximum(values.std(axis=(2, 3), keepdims=True), 1e-6)
    mixing = 1.0 + 0.35 * rng.standard_normal((count, channels, channels))
    mixing /= np.linalg.norm(mixing, axis=2, keepdims=True)
    return np.einsum("ncd,ndhw->nchw", mixing, values)
