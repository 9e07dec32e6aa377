"""Recurrent layers: LSTM, GRU and RNN read their own hidden units again at every step.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__LSTM.html, onnx__GRU.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxprune.rules.registry import rule
from onnxprune.rules.signature import Axes, Pinned, Signature, Site, Verdict, attr_size, packed

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
BIASES = 2
PEEPHOLES = 3


@rule("GRU", "LSTM", "RNN", since=7)
def recurrent(site: Site) -> Verdict:
    """X [s, n, i] and W [d, gates h, i] make Y [s, d, n, h]; R [d, gates h, h] reads h again.

    The gates of a hidden unit, and its rows and columns of R, are one unit. Every direction d has
    hidden units of its own, as many as the other.
    """
    sizes = _sizes(site)
    macs = (("s", "n", "d", "g", "h", "i"), ("s", "n", "d", "g", "h", "r"))
    if int(site.attrs.get("layout", 0)):
        count = sum(prod(sizes[subscript] for subscript in subscripts) for subscripts in macs)
        return Pinned(f"{site.op} with the batch first (layout 1), which onnxruntime cannot run", count)
    if not _fits(site, sizes):
        return Pinned(f"{site.op} whose weights do not fit its hidden size")
    outputs = [_spelled(sizes, "s", "d", "n", "h")] + [_spelled(sizes, "d", "n", "h")] * 2
    return Signature(
        _inputs(site, sizes),
        tuple(axes if shape else None for axes, shape in zip(outputs, site.outputs, strict=False)),
        sizes=sizes,
        pins={"s": f"{site.op} runs along this axis"},
        tied=frozenset(("g", "two", "three")),
        together=(("d", "h"),),
        whole={"d": f"no direction of {site.op} goes alone"},
        fed_back={"r": "h"} if sizes["h"] > 1 else {},
        macs=macs[0],
        more_macs=macs[1:],
        repair=attr_size("hidden_size", packed(h=sizes["h"])),
    )


def _sizes(site: Site) -> dict[str, int]:
    seq, batch, inner = site.shape()
    hidden = site.shape(2)[-1]
    return {
        "s": seq, "n": batch, "i": inner, "d": site.shape(1)[0], "g": GATES[site.op], "h": hidden,
        "r": hidden, "two": BIASES, "three": PEEPHOLES,
    }  # fmt: skip


def _fits(site: Site, sizes: Mapping[str, int]) -> bool:
    rows = sizes["g"] * sizes["h"]
    return site.shape(1) == (sizes["d"], rows, sizes["i"]) and site.shape(2) == (sizes["d"], rows, sizes["h"])


def _spelled(sizes: Mapping[str, int], *axes: str) -> Axes:
    """Write axes as subscripts: each a string of them, those of size 1 left out."""
    return tuple(packed(**{x: sizes[x] for x in axis.split()}) for axis in axes)


def _inputs(site: Site, sizes: Mapping[str, int]) -> tuple[Axes | None, ...]:
    state = _spelled(sizes, "d", "n", "h")
    operands = (
        _spelled(sizes, "s", "n", "i"),
        _spelled(sizes, "d", "g h", "i"),
        _spelled(sizes, "d", "g h", "r"),
        _spelled(sizes, "d", "two g h"),
        _spelled(sizes, "n"),
        state,
        state,
        _spelled(sizes, "d", "three h"),
    )
    return tuple(axes if site.has(i) else None for i, axes in enumerate(operands[: len(site.inputs)]))
