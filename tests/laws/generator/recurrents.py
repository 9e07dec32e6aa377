"""Recurrent layers over the tokens, with the nodes that exporters put around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import ops
from .core import Net, T, values
from .table import block

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SPREAD = {"LSTM": 0.25, "GRU": 0.35, "RNN": 0.6}
NOTES = (
    "recurrent.lstm", "recurrent.gru", "recurrent.rnn", "recurrent.bidirectional", "recurrent.stacked",
    "recurrent.final", "recurrent.zeros", "recurrent.states",
)  # fmt: skip


@block("seq", weight=9, notes=NOTES)
def recurrent(net: Net, x: T) -> T | None:
    """One layer or two over [S, N, C]; the tokens [N, S, D H] or the last states [N, D H] go on."""
    if net.style.dtype != np.float32 or max(values(x.shape[1])) > 64:
        return None
    op, dirs, hidden = net.pick(list(GATES)), net.pick([1, 1, 2, 2]), net.between(3, 16)
    net.note(f"recurrent.{op.lower()}")
    if dirs == 2:
        net.note("recurrent.bidirectional")
    y = ops.transpose(net, x, [1, 0, 2])
    if net.chance(0.4):
        net.note("recurrent.stacked")
        y = tokens(net, layer(net, y, op, dirs, hidden)[0])
        hidden = hidden if net.chance(0.5) else net.between(3, 16)
    whole, last = layer(net, y, op, dirs, hidden)
    if net.chance(0.4):
        net.note("recurrent.final")
        if net.chance(0.5):
            net.nodes[-1].output[0] = ""
        return final(net, last)
    constant = x.constant_token and dirs == 1
    return ops.transpose(net, tokens(net, whole), [1, 0, 2]).but(constant_token=constant)


def layer(net: Net, x: T, op: str, dirs: int, hidden: int) -> tuple[T, T]:
    """A layer on [S, N, C]; returns Y [S, D, N, H] and Y_h [D, N, H]."""
    rows = GATES[op] * hidden
    weight = net.weight([dirs * rows, x.c], [1], x).reshape(dirs, rows, x.c)
    again = net.normal(dirs, rows, hidden) * 0.7 / hidden**0.5
    inputs = [x.name, net.param(weight), net.param(again), "", "", *states(net, x, op, dirs, hidden)]
    if net.chance(0.8):
        inputs[3] = net.param(net.normal(dirs, 2 * rows) * 0.2, "bias")
    if op == "LSTM" and net.chance(0.3):
        inputs += [""] * (7 - len(inputs))
        inputs.append(net.param(net.normal(dirs, 3 * hidden) * 0.3, "peepholes"))
    while not inputs[-1]:
        inputs.pop()
    names = net.multi(op, inputs, 2, **attributes(net, op, dirs, hidden))
    facts: dict[str, Any] = {"form": "states", "std": SPREAD[op], "mean": 0.0, "even": False}
    whole = net.out(names[0], x, shape=(x.shape[0], dirs, x.shape[1], hidden), **facts)
    return whole, net.out(names[1], x, shape=(dirs, x.shape[1], hidden), **facts)


def attributes(net: Net, op: str, dirs: int, hidden: int) -> dict[str, Any]:
    result: dict[str, Any] = {"hidden_size": hidden}
    if dirs == 2:
        result["direction"] = "bidirectional"
    elif net.chance(0.5):
        result["direction"] = net.pick(["forward", "reverse"])
    if op == "GRU" and net.chance(0.6):
        result["linear_before_reset"] = 1
    if op == "RNN" and net.chance(0.3):
        result["activations"] = ["Relu" if net.chance(0.3) else "Tanh"] * dirs
    if net.chance(0.1):
        result["clip"] = 3.0
    return result


def states(net: Net, x: T, op: str, dirs: int, hidden: int) -> list[str]:
    """The initial states: none, zeros of a computed shape, or learned ones."""
    batch, count = x.shape[1], 2 if op == "LSTM" else 1
    if net.chance(0.4):
        return []
    if net.chance(0.5):
        net.note("recurrent.states")
        if isinstance(batch, int) and net.chance(0.5):
            return [net.param(net.normal(dirs, batch, hidden) * 0.3, "state") for _ in range(count)]
        learned = [net.param(net.normal(dirs, 1, hidden) * 0.3, "state") for _ in range(count)]
        return [net.node("Expand", [name, shape_of_states(net, x, [dirs, hidden])]) for name in learned]
    net.note("recurrent.zeros")
    shape = shape_of_states(net, x, [dirs, hidden])
    if net.chance(0.5):
        zeros = net.node("ConstantOfShape", [shape])
    else:
        zeros = net.node("Expand", [net.param(0.0, "zero"), shape])
    return [zeros] * count


def shape_of_states(net: Net, x: T, sizes: list[int]) -> str:
    batch = ops.computed_size(net, x, ops.ax(1))
    return net.node("Concat", [net.ints(sizes[:1]), batch, net.ints(sizes[1:])], axis=0)


def tokens(net: Net, y: T) -> T:
    """[S, D, N, H] to [S, N, D H]."""
    dirs = int(values(y.shape[1])[0])
    if dirs == 1 and net.chance(0.7):
        return ops.squeeze(net, y, [1], "seq")
    turned = ops.transpose(net, y, [0, 2, 1, 3])
    return ops.reshape(net, turned, [ops.ax(0), ops.ax(1), ops.ax(2, 3)], "seq")


def final(net: Net, last: T) -> T:
    """[D, N, H] to [N, D H]."""
    dirs, batch, hidden = last.shape
    if dirs == 1:
        return ops.squeeze(net, last, [0], "vec")
    if net.chance(0.5):
        turned = ops.transpose(net, last, [1, 0, 2])
        return ops.reshape(net, turned, [ops.ax(0), ops.ax(1, 2)], "vec")
    if net.chance(0.5):
        parts = [ops.squeeze(net, part, [0], "vec") for part in ops.split(net, last, [1, 1], 0)]
    else:
        picked = [net.node("Gather", [last, net.exact(np.int64(i), "index")], axis=0) for i in (0, 1)]
        parts = [net.out(name, last, shape=(batch, hidden), form="vec") for name in picked]
    joined = net.node("Concat", parts if net.chance(0.7) else parts[::-1], axis=1)
    assert isinstance(hidden, int)
    return net.out(joined, last, shape=(batch, 2 * hidden), form="vec")
