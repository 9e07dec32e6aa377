"""Bugs once found, each by the smallest model that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.replay import Conflict, Removal, Replayed
from onnxprune.errors import NothingToPrune, OnnxPruneError
from onnxprune.planning.cost_model import CostModel
from tests.laws.counting import count_params

Dims = Sequence[int | str]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    params: Mapping[str, Any],
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of these nodes; a tuple in `params` is the shape of a random float tensor."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(p).astype(np.float32) if isinstance(p, tuple) else np.asarray(p)
        for name, p in params.items()
    }
    info = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in side.items()]
        for side in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "small", info[0], info[1], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    if opset != 18:  # the checker refuses GroupNormalization 18, which exporters wrote
        onnx.checker.check_model(model, full_check=True)
    return model


def settings(ratio: float = 0.5, seed: int = 0) -> PruneSettings:
    return PruneSettings(ratio=ratio, criterion="random", seed=seed, align=1, bench=False)


def without(analysis: Analysis, tensor: str, gone: Sequence[int]) -> Removal:
    """Replay the removal of these indices of the first labelled axis of a tensor."""
    units = analysis.units
    removed = np.zeros(units.count, dtype=bool)
    labels = units.traced.tensors[tensor].factors[0].labels
    removed[units.of[labels.ravel()[list(gone)]]] = True
    return Removal.of(units, units.rows.close(removed))


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalisation_keeps_its_groups_apart(opset: int) -> None:
    # As many channels must stay of each group; which ones is free.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["y"]),
        node("GroupNormalization", ["y", "s", "b"], ["z"], num_groups=2),
        node("Conv", ["z", "v"], ["out"]),
    ]
    size = 2 if opset == 18 else 8
    params = {"w": (8, 3, 1, 1), "s": (size,), "b": (size,), "v": (2, 8, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, {"out": [1, 2, 4, 4]}, params, opset)
    assert without(analyse(model), "y", [1, 2, 3, 6, 7]).replayed.conflicts
    assert without(analyse(model), "y", [1, 2, 3, 4, 7]).replayed.conflicts
    assert not without(analyse(model), "y", [1, 2, 3, 4, 6, 7]).replayed.conflicts
    assert not without(analyse(model), "y", [1, 2, 3, 5, 6, 7]).replayed.conflicts


@pytest.mark.parametrize("form", ["Gather", "Split"])
def test_rows_that_are_picked_keep_columns_of_their_own(form: str) -> None:
    # Two rows of four channels, taken apart and joined again: each may lose others than the other.
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Reshape", ["y", "rows"], ["z"])]
    if form == "Gather":
        nodes += [node("Gather", ["z", f"at{i}"], [f"part{i}"], axis=1) for i in range(2)]
    else:
        nodes.append(node("Split", ["z"], ["row0", "row1"], axis=1))
        nodes += [node("Squeeze", [f"row{i}", "axes"], [f"part{i}"]) for i in range(2)]
    nodes += [node("Concat", ["part1", "part0"], ["k"], axis=1), node("MatMul", ["k", "v"], ["out"])]
    params = {"w": (3, 8), "rows": [1, 2, -1], "at0": 0, "at1": 1, "axes": [1], "v": (8, 2)}
    used = {name for n in nodes for name in n.input}
    params = {name: value for name, value in params.items() if name in used}
    model = model_of(nodes, {"x": [1, 3]}, {"out": [1, 2]}, params)
    assert without(analyse(model), "y", [0, 1, 4]).replayed.conflicts
    assert not without(analyse(model), "y", [0, 1, 4, 7]).replayed.conflicts
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    kept = next(s.keep for s in result.plan.slices if s.tensor == "w")
    assert [k for k in kept if k < 4] != [k - 4 for k in kept if k > 3]


def test_computed_kernels_keep_their_windows() -> None:
    # A kernel scaled by what arrives: its spatial axes are labelled by the weight that travels.
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["x"], ["m"]),
        node("Mul", ["v", "m"], ["w"]),
        node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["y"], ["z"]),
        node("Conv", ["z", "u"], ["out"]),
    ]
    params = {"v": (8, 3, 3, 3), "u": (2, 8, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 6, 6]}, {"out": [1, 2, 6, 6]}, params)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert not result.report.dropped
    assert [list(t.dims) for t in result.model.graph.initializer if t.name == "v"] == [[4, 3, 3, 3]]


def test_two_axes_of_one_operand_are_masked_one_after_the_other() -> None:
    # The oracle masks what it has masked already.
    node = helper.make_node
    nodes = [
        node("Relu", ["p"], ["q"]),
        node("ReduceSum", ["q"], ["r"], keepdims=0),
        node("Mul", ["x", "r"], ["out"]),
    ]
    model = model_of(nodes, {"x": [1, 3]}, {"out": [1, 3]}, {"p": (6, 8)})
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status in ("proved", "weak")


def _rows(channels: int) -> onnx.ModelProto:
    """Channels in four rows, by a Reshape whose target follows the shape at run time."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("Shape", ["y"], ["s"]),
        node("Slice", ["s", "one", "two"], ["c"]),
        node("Div", ["c", "rows"], ["d"]),
        node("Concat", ["batch", "rows", "d"], ["t"], axis=0),
        node("Reshape", ["y", "t"], ["h"], name="rows"),
        node("Mul", ["h", "scale"], ["k"]),
        node("Reshape", ["k", "flat"], ["f"]),
        node("MatMul", ["f", "v"], ["out"]),
    ]
    params = {
        "w": (3, channels), "one": [1], "two": [2], "rows": [4], "batch": [1], "scale": (4, channels // 4),
        "flat": [1, -1], "v": (channels, 2),
    }  # fmt: skip
    return model_of(nodes, {"x": [1, 3]}, {"out": [1, 2]}, params)


def test_a_pruned_model_can_be_pruned_again() -> None:
    # The second run inserts a factor before the same node: node names must not collide.
    first = onnxprune.prune(_rows(16), PruneSettings(ratio=0.5, granularity="rows", align=1, bench=False))
    again = onnxprune.prune(first.model, PruneSettings(ratio=0.5, granularity="rows", align=1, bench=False))
    assert again.report.verification.status in ("proved", "weak")
    names = [n.name for n in again.model.graph.node if n.name]
    assert len(set(names)) == len(names)


def test_a_size_that_becomes_zero_is_not_scaled_back() -> None:
    # 8 channels in 4 rows; with 2 channels left 2 / 4 is 0, which no factor turns into 1.
    for seed in range(4):
        result = onnxprune.prune(_rows(8), settings(0.75, seed))
        assert result.report.verification.status in ("proved", "weak"), seed
        assert not result.report.dropped, seed


def test_plans_that_remove_whole_columns_are_read_back() -> None:
    # The parents of columns are groups of one channel each: an empty `keep` was refused.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("Reshape", ["y", "grid"], ["h"]),
        node("Mul", ["h", "scale"], ["k"]),
        node("Reshape", ["k", "flat"], ["f"]),
        node("MatMul", ["f", "v"], ["out"]),
    ]
    params = {"w": (3, 16), "grid": [1, 4, 4], "scale": (4,), "flat": [1, 16], "v": (16, 2)}
    model = model_of(nodes, {"x": [1, 3]}, {"out": [1, 2]}, params)
    columns = PruneSettings(ratio=0.5, granularity="columns", align=1, bench=False)
    result = onnxprune.prune(model, columns)
    again = onnxprune.apply(model, result.plan.to_json())
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_the_oracle_runs_restricted_norms_at_other_sizes() -> None:
    # GroupNorm written out, with a dynamic grid: the mask's merged axis follows the size.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["y"]),
        node("Shape", ["y"], ["s"]),
        node("Reshape", ["y", "grid"], ["g"]),
        node("InstanceNormalization", ["g", "ones", "zeros"], ["i"]),
        node("Reshape", ["i", "s"], ["n"]),
        node("Conv", ["n", "v"], ["out"]),
    ]
    params = {
        "w": (8, 3, 1, 1), "grid": [0, 2, -1], "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32), "v": (2, 8, 1, 1),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 3, "h", "w"]}, {"out": [1, 2, "h", "w"]}, params)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert result.report.verification.cases > 1


def test_the_price_of_an_unshared_vector() -> None:
    # One bias feeds two Convs that keep different channels: both copies are parameters.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["y"]),
        node("Conv", ["y", "v", "b"], ["z"]),
        node("Conv", ["z", "u"], ["out"]),
    ]
    params = {"w": (8, 3, 1, 1), "v": (8, 8, 1, 1), "b": (8,), "u": (2, 8, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, {"out": [1, 2, 4, 4]}, params)
    result = onnxprune.prune(model, settings())
    units = analyse(model).units
    prices, gone = CostModel(units, 0), np.zeros(units.count, dtype=bool)
    for group, entry in zip(units.groups, result.plan.groups, strict=True):
        gone[np.delete(group.units, entry.keep)] = True
    prices.remove(prices.effect(np.flatnonzero(gone)))
    assert prices.quantities()["params"] == count_params(result.model)


def test_whole_rows_behind_a_pinned_row_come_to_an_end() -> None:
    # Groups of one Conv are rows of the next; the middle one is pinned: planning ran for ever.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["y"]),
        node("Conv", ["y", "v"], ["m"], group=4),
        node("Conv", ["m", "u"], ["z"], group=4),
        node("Conv", ["z", "t"], ["out"]),
    ]
    params = {"w": (12, 3, 1, 1), "v": (16, 3, 1, 1), "u": (8, 4, 1, 1), "t": (2, 8, 1, 1)}
    outputs = {"out": [1, 2, 4, 4], "m": [1, 16, 4, 4]}
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, outputs, params)
    rows = PruneSettings(ratio=0.5, granularity="rows", align=1, bench=False)
    with pytest.raises(NothingToPrune):
        onnxprune.prune(model, rows)


def test_the_mean_of_a_layer_normalisation_is_read() -> None:
    # The oracle's restricted normalisation has to give all outputs that somebody reads.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("LayerNormalization", ["y", "s"], ["z", "mean", "inverse"]),
        node("MatMul", ["z", "v"], ["u"]),
        node("Mul", ["u", "mean"], ["m"]),
        node("Add", ["m", "inverse"], ["out"]),
    ]
    params = {"w": (3, 8), "s": (8,), "v": (8, 2)}
    model = model_of(nodes, {"x": [4, 3]}, {"out": [4, 2]}, params)
    assert onnxprune.prune(model, settings()).report.verification.status == "proved"


def test_descriptions_of_aliases_follow_the_constant() -> None:
    # onnxruntime refuses a model whose value_info contradicts the shape behind an Identity.
    node = helper.make_node
    nodes = [
        node("Identity", ["w"], ["alias"]),
        node("MatMul", ["x", "alias"], ["y"]),
        node("MatMul", ["y", "v"], ["out"]),
    ]
    model = model_of(nodes, {"x": [4, 3]}, {"out": [4, 2]}, {"w": (3, 8), "v": (8, 2)})
    model.graph.value_info.append(helper.make_tensor_value_info("alias", TensorProto.FLOAT, [3, 8]))
    result = onnxprune.prune(model, settings())
    info = next(v for v in result.model.graph.value_info if v.name == "alias")
    assert [d.dim_value for d in info.type.tensor_type.shape.dim] == [3, 4]


def test_an_axis_whose_labels_end_at_a_node_does_not_shrink() -> None:
    # A dense layer makes a small image; a grouped Conv sums channels: no column of the image may go
    # where every row has lost another pixel.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("Reshape", ["y", "image"], ["i"]),
        node("Conv", ["i", "k"], ["c"], group=2),
        node("Resize", ["c", "", "scales"], ["r"], mode="nearest"),
        node("Conv", ["r", "v"], ["out"]),
    ]
    params = {
        "w": (3, 64), "image": [1, 4, 4, 4], "k": (8, 2, 1, 1), "v": (2, 8, 1, 1),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 3]}, {"out": [1, 2, 8, 8]}, params)
    for seed in range(6):
        with suppress(NothingToPrune):
            result = onnxprune.prune(model, settings(0.25, seed))
            assert not result.report.dropped, seed


def test_group_normalisation_of_opset_18_is_loaded_and_pruned() -> None:
    # The ONNX checker calls it deprecated; exporters wrote it and onnxruntime runs it.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["y"]),
        node("GroupNormalization", ["y", "s", "b"], ["z"], num_groups=2),
        node("Conv", ["z", "v"], ["out"]),
    ]
    params = {"w": (8, 3, 1, 1), "s": (2,), "b": (2,), "v": (2, 8, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, {"out": [1, 2, 4, 4]}, params, 18)
    assert onnxprune.prune(model, settings()).report.verification.status == "proved"


def test_a_replay_that_refuses_the_whole_model_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clash = Replayed(conflicts=[Conflict("first", "rows differ", np.zeros(0, np.int64))])
    monkeypatch.setattr("onnxprune.analysis.replay.replay", lambda *_: clash)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Conv", ["y", "v"], ["out"])]
    params = {"w": (8, 3, 1, 1), "v": (2, 8, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, {"out": [1, 2, 4, 4]}, params)
    with pytest.raises(OnnxPruneError, match="node 'first' clashes: rows differ"):
        onnxprune.prune(model, settings())


@pytest.mark.parametrize("order", [range(8), [5, 2, 7, 0, 1, 4, 3, 6]])
def test_channels_looked_up_by_a_flattened_place(order: Sequence[int]) -> None:
    # PyTorch's exporter writes as_strided so: a counting index whose rows follow from the batch. Any other
    # index that is computed freezes the channels.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("Reshape", ["y", "flat"], ["places"]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"]),
        node("Range", ["zero", "rows", "one"], ["row"]),
        node("Mul", ["row", "width"], ["start"]),
        node("Reshape", ["start", "column"], ["starts"]),
        node("Add", ["starts", "channels"], ["index"]),
        node("Gather", ["places", "index"], ["picked"]),
        node("Squeeze", ["picked", "two"], ["z"]),
        node("MatMul", ["z", "v"], ["out"]),
    ]
    channels = np.asarray(order).reshape(1, 8, 1)
    params = {
        "w": (3, 8), "v": (8, 2), "flat": [-1], "zero": 0, "one": 1, "two": [2], "width": 8,
        "column": [-1, 1, 1], "channels": channels,
    }  # fmt: skip
    model = model_of(nodes, {"x": ["batch", 3]}, {"out": ["batch", 2]}, params)
    if list(order) != list(range(8)):
        with pytest.raises(NothingToPrune, match="known only at run time"):
            onnxprune.prune(model, settings())
        return
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert [(g.kept, g.channels) for g in result.report.groups] == [(4, 8)]
    shown = [(r.node, r.kind, r.value) for r in result.plan.repairs if r.kind.startswith("shape")]
    assert [kind for _, kind, _ in shown] == ["shape div"]
    again = onnxprune.apply(model, result.plan).model
    assert onnxprune.verify(again, model, result.plan).matches_plan


@pytest.mark.parametrize("truncated", [0, 1])
def test_padding_up_to_a_multiple(truncated: int) -> None:
    # A window attention pads its tokens by what is missing to a multiple of the window.
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["y"]),
        node("Shape", ["y"], ["shape"]),
        node("Slice", ["shape", "one", "two"], ["tokens"]),
        node("Sub", ["zero", "tokens"], ["less"]),
        node("Mod", ["less", "window"], ["missing"], fmod=truncated),
        node("Abs", ["missing"], ["width"]),
        node("Concat", ["zeros", "width", "zero"], ["pads"], axis=0),
        node("Pad", ["y", "pads"], ["padded"]),
        node("MatMul", ["padded", "v"], ["out"]),
    ]
    params = {
        "w": (3, 8), "v": (8, 2), "zero": [0], "one": [1], "two": [2], "window": [4], "zeros": [0, 0, 0, 0],
    }  # fmt: skip
    model = model_of(nodes, {"x": ["batch", "tokens", 3]}, {"out": ["batch", "padded", 2]}, params)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert [(g.kept, g.channels) for g in result.report.groups] == [(4, 8)]


def test_multipliers_of_multipliers_are_cut_once() -> None:
    # Depthwise convolutions that double the channels twice: the rows of the second grid are the channels of
    # the first. Half of both would leave a quarter; half of the stem, which they multiply, halves both.
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["stem"]),
        node("Conv", ["stem", "v"], ["double"], group=4),
        node("Relu", ["double"], ["positive"]),
        node("Conv", ["positive", "u"], ["again"], group=8),
        node("Conv", ["again", "t"], ["out"]),
    ]
    params = {"w": (4, 3, 1, 1), "v": (8, 1, 3, 3), "u": (16, 1, 1, 1), "t": (2, 16, 1, 1)}
    model = model_of(nodes, {"x": [1, 3, 5, 5]}, {"out": [1, 2, 3, 3]}, params)
    result = onnxprune.prune(model, settings())
    assert result.report.verification.status == "proved"
    assert [(g.kept, g.asked) for g in result.report.groups] == [(8, 8)]
    shapes = {t.name: list(t.dims)[:1] for t in result.model.graph.initializer}
    assert [shapes[name] for name in "wvu"] == [[2], [4], [8]]
