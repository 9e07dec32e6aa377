"""Windows: every layer is in one, and they begin about half a window after each other."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxprune.recovery.regression import linears
from onnxprune.recovery.walk import Walk
from onnxprune.recovery.windows import LAYERS, windows
from tests.laws.test_regressions import model_of


def chain(layers: int, residual: bool = False) -> Walk:
    """Make a walk of layers of width 4; with residuals around every two of them."""
    nodes, name = [], "x"
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"h{i}"]))
        if residual and i % 2:
            nodes.append(helper.make_node("Add", [f"h{i}", "x" if i == 1 else f"a{i - 2}"], [f"a{i}"]))
        name = f"a{i}" if residual and i % 2 else f"h{i}"
    model = model_of(nodes, {"x": ["B", 4]}, {name: ["B", 4]}, {f"w{i}": (4, 4) for i in range(layers)})
    return Walk(model, [{"x": np.zeros((1, 4), np.float32)}])


@pytest.mark.parametrize("layers", [1, 3, 4, 5, 9])
def test_every_layer_is_in_a_window_and_the_last_ends_the_network(layers: int) -> None:
    walk = chain(layers)
    found = windows(walk, linears(walk))
    assert {layer.place for window in found for layer in window.layers} == set(range(layers))
    assert found[-1].stop == len(walk.nodes)
    assert all(len(window.layers) == LAYERS for window in found[:-1])
    starts = [window.start for window in found]
    assert starts == sorted(set(starts))


def test_windows_begin_at_the_ends_of_residual_blocks() -> None:
    walk = chain(10, residual=True)
    for window in windows(walk, linears(walk)):
        assert window.layers[0].node.input[0] in ("x", *(f"a{i}" for i in range(10)))
        assert window.tensors == [layer.weight for layer in window.layers]


def test_without_layers_there_are_no_windows() -> None:
    assert windows(chain(2), []) == []
