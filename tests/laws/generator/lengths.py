"""Stored tables that are read up to a length known only at run time: positions, relative places, masks."""

from __future__ import annotations

import numpy as np

from . import ops
from .core import Net, T, root, values
from .table import block


def _bound(net: Net, x: T) -> str:
    """The number of tokens, a tensor of one element."""
    return ops.computed_size(net, x, ops.ax(1))


def _sliced(net: Net, table: str, start: str, end: str, axis: int) -> str:
    return net.node("Slice", [table, start, end, net.ints([axis], "axes")])


@block("seq", weight=3, since=11, draw="modern", notes=(
    "length_table.slice", "length_table.range", "length_table.places", "length_table.middle",
))  # fmt: skip
def length_table(net: Net, x: T) -> T | None:
    """Rows of a table by place, as many as there are tokens; the table is longer than any input."""
    tokens = max(values(x.shape[1]))
    rows = tokens + net.between(1, 40)
    kind = net.pick(["slice", "range", "places", "middle"])
    net.note(f"length_table.{kind}")
    end, zero = _bound(net, x), net.ints([0], "start")
    if kind == "range":
        table = net.param(net.normal(rows, x.c) * 0.3 * x.std, "position")
        count = ops.scalar(net, end)
        places = net.node("Range", [net.exact(np.int64(0)), count, net.exact(np.int64(1))])
        read = net.node("Gather", [table, places], axis=0)
    elif kind == "places":
        table = net.param(net.normal(rows, x.c) * 0.3 * x.std, "position")
        places = net.exact(np.arange(rows, dtype=np.int64)[None], "places")
        read = net.node("Gather", [table, _sliced(net, places, zero, end, 1)], axis=0)
    elif kind == "slice":
        table = net.param(net.normal(1, rows, x.c) * 0.3 * x.std, "position")
        read = _sliced(net, table, zero, end, 1)
    else:
        table = net.param(net.normal(rows + 3, x.c) * 0.3 * x.std, "position")
        start = net.ints([3], "start")
        read = _sliced(net, table, start, net.node("Add", [start, end]), 0)
    return net.out(net.node("Add", [x, read]), x, std=root(x.std, 0.3 * x.std), constant_token=False)


@block("seq", weight=2, since=11, draw="modern", notes=("length_mask.fill", "length_mask.mix"))
def length_mask(net: Net, x: T) -> T | None:
    """A square mask cut to the number of tokens both ways: it mixes tokens, or fills scores."""
    tokens = max(values(x.shape[1]))
    rows = tokens + net.between(1, 20)
    end = _bound(net, x)
    both = net.node("Concat", [end, end], axis=0)
    lower = np.tril(np.ones((rows, rows), np.float32))
    if net.chance(0.5):
        net.note("length_mask.mix")
        mask = net.param(lower / np.sqrt(np.arange(1, rows + 1))[:, None], "mask")
        cut = net.node("Slice", [mask, net.ints([0, 0]), both, net.ints([0, 1], "axes")])
        return net.out(net.node("MatMul", [cut, x]), x, constant_token=False)
    net.note("length_mask.fill")
    mask = net.exact(lower > 0, "mask")
    cut = net.node("Slice", [mask, net.ints([0, 0]), both, net.ints([0, 1], "axes")])
    turned = ops.transpose(net, x, [0, 2, 1])
    scores = net.node("Mul", [net.node("MatMul", [x, turned]), net.param(1 / (x.c * x.std**2), "scale")])
    filled = net.node("Where", [cut, scores, net.param(-1e4, "fill")])
    weights = net.node("Softmax", [filled], axis=2 if net.opset < 13 else -1)
    return net.out(net.node("MatMul", [weights, x]), x, constant_token=False)
