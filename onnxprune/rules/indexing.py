"""Movement by tables of places: GatherND, GatherElements, ScatterND and ScatterElements.

Specification: https://onnx.ai/onnx/operators/, one page for each (onnx__GatherND.html, onnx__ScatterND.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    INDEXED,
    Axes,
    Fix,
    Shape,
    Shrunk,
    Signature,
    Site,
    Take,
    Verdict,
    named,
    numbered,
    positive,
)

AT_RUN_TIME = "looked up by an index that is known only at run time"
BY_LENGTH = "read up to a length that is known only at run time"
CROSSED = "looked up by an index that varies along several axes"
WRITTEN = "a part of it is overwritten"
PLACED = "each part of it is written to a place of its own"
COORDINATES = "holds the coordinates of an index"


@dataclass(frozen=True)
class PlaceTable:
    """An index that is stored in the model: [grid…, k] places, counted from the front."""

    places: np.ndarray

    @property
    def dims(self) -> int:
        return self.places.ndim - 1

    def along(self) -> dict[int, int | None]:
        """Find the coordinates that vary along one dimension of the grid only, which no other varies along.

        Returns that dimension by coordinate, None for a coordinate that is the same everywhere.
        """
        varying = [self._varying(self.places[..., c]) for c in range(self.places.shape[-1])]
        result: dict[int, int | None] = {}
        for c, own in enumerate(varying):
            others = {d for i, dims in enumerate(varying) if i != c for d in dims}
            if len(own) < 2 and not set(own) & others:
                result[c] = own[0] if own else None
        return result

    def line(self, coordinate: int, dim: int | None) -> np.ndarray:
        """Return a coordinate along a dimension of the grid, [1] where it is the same everywhere."""
        grid = self.places[..., coordinate]
        return grid[tuple(slice(None) if d == dim else 0 for d in range(self.dims))].reshape(-1)

    def replaced(self, lines: Mapping[int, tuple[int | None, np.ndarray]]) -> np.ndarray:
        """Return the index with other places of some coordinates.

        lines: the dimension of the grid and the places along it, by coordinate.
        """
        grid = self.places
        for dim, line in lines.values():
            if dim is not None:
                grid = np.repeat(grid.take([0], axis=dim), len(line), axis=dim)
        grid = grid.copy()
        for c, (dim, line) in lines.items():
            grid[..., c] = line.reshape([-1 if d == dim else 1 for d in range(self.dims)])
        return grid

    def _varying(self, grid: np.ndarray) -> list[int]:
        return [d for d in range(grid.ndim) if grid.shape[d] > 1 and (grid != grid.take([0], axis=d)).any()]


def _table(site: Site, bounds: Shape) -> PlaceTable | None:
    """Return the index of a node if it is known; bounds: [k] sizes of the axes that it picks from."""
    value = site.value(1)
    if value is None or not value.size:
        return None
    return PlaceTable(np.where(value < 0, value + np.asarray(bounds), value).astype(np.int64))


@rule("GatherND", since=11)
def gather_nd(site: Site) -> Verdict:
    """Picks labels by a stored index, axis by axis; any other index pins the axes that it picks from."""
    data, index = site.shape(), site.shape(1)
    batch = int(site.attrs.get("batch_dims", 0))
    end = batch + index[-1]
    shared, rest = numbered(data[:batch], "b"), numbered(data[end:])
    grid, source = list(numbered(index[batch:-1], "j")), list(numbered(data[batch:end], "from"))
    table = None if batch or site.listed(1) is None else _table(site, data[batch:end])
    if table is None:
        pins = {subscript: AT_RUN_TIME for axis in source for subscript in axis}
        places: Axes = (*shared, *grid, ("k",) if index[-1] > 1 else ())
        axes = (*shared, *source, *rest)
        return Signature((axes, places), ((*shared, *grid, *rest),), pins=pins | {"k": COORDINATES})
    takes, pins = {}, {}
    along = table.along()
    for c, axis in enumerate(source):
        if c not in along:
            pins |= dict.fromkeys(axis, CROSSED)
            continue
        source[c], dim = (f"from{c}",), along[c]
        takes[f"to{c}"] = Take((f"from{c}",), table.line(c, dim), order=INDEXED)
        if dim is not None:
            grid[dim] = (f"to{c}",)
    return Signature(
        ((*source, *rest), None), ((*grid, *rest),), takes=takes, pins=pins, repair=_picked_places
    )


def _picked_places(site: Site, shrunk: Shrunk) -> list[Fix]:
    data = site.shape()
    table = _table(site, data[: site.shape(1)[-1]])
    assert table is not None
    picked = {c: shrunk.picked[f"to{c}"] for c in table.along() if f"to{c}" in shrunk.picked}
    return [Fix(1, table.replaced({c: (table.along()[c], line) for c, line in picked.items()}))]


@rule("ScatterND", since=11)
def scatter_nd(site: Site) -> Verdict:
    """Writes parts of a tensor; passes axes that a known index runs along, and those behind the index.

    What is written to some places of an axis goes with what is there; the index is counted again.
    """
    data, index = site.shape(), site.shape(1)
    count, dims = index[-1], len(index) - 1
    axes, grid = list(numbered(data)), list(numbered(index[:-1], "u"))
    table = _table(site, data[:count])
    written = _written(table)
    placed: dict[str, Take] = {}
    for c, (dim, line) in written.items():
        if _is_whole(line, data[c]):
            grid[dim] = axes[c]
        elif axes[c] and grid[dim]:
            placed[grid[dim][0]] = Take(axes[c], line, order=INDEXED)
    pins = {x: WRITTEN for c, axis in enumerate(axes[:count]) if c not in written for x in axis}
    along = {dim for dim, _ in written.values()}
    pins |= {x: PLACED for d in range(dims) if d not in along for x in grid[d]}
    pins["k"] = COORDINATES
    places = None if table is not None else (*grid, ("k",) if count > 1 else ())
    updates = (*grid, *axes[count:])
    return Signature(
        (tuple(axes), places, updates),
        (tuple(axes),),
        pins=pins,
        placed=placed,
        repair=_written_places if written else None,
    )


def _written(table: PlaceTable | None) -> dict[int, tuple[int, np.ndarray]]:
    """Find the axes that an index runs along, each with a dimension of its grid and the places along it.

    An axis with a place that is written twice is left out.
    """
    along = {} if table is None else table.along()
    found = {
        c: (dim, table.line(c, dim)) for c, dim in along.items() if table is not None and dim is not None
    }
    return {c: (dim, line) for c, (dim, line) in found.items() if len(np.unique(line)) == len(line)}


def _is_whole(line: np.ndarray, size: int) -> bool:
    return np.array_equal(line, np.arange(size))


def _written_places(site: Site, shrunk: Shrunk) -> list[Fix]:
    bounds = site.shape()[: site.shape(1)[-1]]
    table = _table(site, bounds)
    assert table is not None
    lines: dict[int, tuple[int | None, np.ndarray]] = {}
    for c, (dim, line) in _written(table).items():
        whole = _is_whole(line, bounds[c])
        lines[c] = dim, np.arange(shrunk.sizes[f"x{c}"]) if whole else shrunk.picked.get(f"u{dim}", line)
    return [Fix(1, table.replaced(lines))]


@rule("GatherElements", since=11)
def gather_elements(site: Site) -> Verdict:
    """Passes the axes that its index spans whole; pins the axis that it picks from."""
    return _by_element(site, AT_RUN_TIME)


@rule("Scatter", since=9)
@rule("ScatterElements", since=11)
def scatter_elements(site: Site) -> Verdict:
    """Passes the axes that its index spans whole; pins the axis that it writes to."""
    return _by_element(site, WRITTEN)


def _by_element(site: Site, reason: str) -> Verdict:
    data, index = site.shape(), site.shape(1)
    axis = positive(int(site.attrs.get("axis", 0)), len(data))
    axes = numbered(data)
    torn = [i for i in range(len(data)) if i == axis or data[i] != index[i]]
    places = named(index, [f"j{i}" if i in torn else f"x{i}" for i in range(len(data))])
    pins = {x: reason for i in torn for x in axes[i]}
    picks = not site.has(2)
    pins |= {x: PLACED for i in torn for x in places[i] if i != axis or not picks}
    if picks:
        return Signature((axes, places), (places,), pins=pins)
    return Signature((axes, places, places), (axes,), pins=pins)
