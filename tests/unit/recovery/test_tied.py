"""A weight that several nodes read: refitted to all of them, or left as it is."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.analysis.analyse import analyse, load
from onnxprune.data.consumers import consumers
from onnxprune.model.runtime import open_session, run
from onnxprune.pipeline.iterative_schedule import Stage
from onnxprune.pipeline.resolve import gathered, requested, scored
from onnxprune.planning.decide import decide
from onnxprune.recovery.least_squares import folded
from onnxprune.recovery.refit import refitted
from onnxprune.recovery.regression import linears, stored, tied_linears
from onnxprune.recovery.repair import Repairs
from onnxprune.recovery.walk import Walk
from tests.laws.test_regressions import model_of
from tests.unit.recovery.examples import Example, calibration, example

node = helper.make_node
WIDTH = 12
PARAMS = {"w": (6, WIDTH), "b": (WIDTH,), "v": (WIDTH, 8), "c": (8,), "u": (8, 3)}


def branch(name: str, source: str) -> list[NodeProto]:
    return [
        node("Gemm", [source, "w", "b"], [f"h{name}"]),
        node("Relu", [f"h{name}"], [f"r{name}"]),
        node("Gemm", [f"r{name}", "v", "c"], [f"k{name}"]),
        node("Relu", [f"k{name}"], [f"s{name}"]),
    ]


def siamese(more: list[NodeProto] | None = None, biases: bool = True) -> onnx.ModelProto:
    """Two branches of the same weights, over x and over -3 x, whose difference is read."""
    nodes = [
        node("Mul", ["x", "far"], ["z"]), *branch("1", "x"), *branch("2", "z"), *(more or []),
        node("Sub", ["s1", "s2"], ["d"]), node("MatMul", ["d", "u"], ["y"]),
    ]  # fmt: skip
    if not biases:
        for n in nodes:
            if n.op_type == "Gemm":
                del n.input[2:]
    params = PARAMS if biases else {k: v for k, v in PARAMS.items() if k not in "bc"}
    model = model_of(nodes, {"x": ["B", 6]}, {"y": ["B", 3]}, {"far": (1,), **params})
    far = next(t for t in model.graph.initializer if t.name == "far")
    far.CopyFrom(numpy_helper.from_array(np.array([-3.0], np.float32), "far"))
    return model


def missed(given: Example, model: onnx.ModelProto, names: list[str]) -> dict[str, float]:
    """By tensor, the squared error on the batches held out, relative to the energy of what it is to be."""
    held = given.evidence.data.judge
    walks = [Walk(m, held) for m in (given.analysis.model, model)]
    result = {}
    for name in names:
        wanted, found = (
            np.concatenate([v[name] for v in walk.ahead(walk.made[name] + 1, [name], range(len(held)))])
            for walk in walks
        )
        result[name] = float(np.square(found - wanted).sum() / np.square(wanted).sum())
    return result


def pruned_example(biases: bool) -> Example:
    """Cut the layer between the shared weights, none of what they make."""
    return example(4, siamese(biases=biases))


def test_a_weight_is_fitted_to_all_that_read_it() -> None:
    for biases in (True, False):
        given = pruned_example(biases)
        found = refitted(given.context(), given.pruned)
        before, after = (missed(given, m, ["y"])["y"] for m in (given.pruned, found))
        assert after < 0.7 * before, biases
        names = {t.name for t in found.graph.initializer}
        values = {m: {t.name: numpy_helper.to_array(t) for t in p.graph.initializer}
                  for m, p in (("pruned", given.pruned), ("found", found))}  # fmt: skip
        changed = {n for n in names if not np.array_equal(values["pruned"][n], values["found"][n])}
        assert "v" in changed
        assert len(found.graph.initializer) == len(given.pruned.graph.initializer)


def test_the_solution_is_that_of_the_stacked_rows() -> None:
    given = pruned_example(biases=False)
    data = given.evidence.data
    walk = Walk(given.pruned, data.batches)
    (layers,) = [tied for tied in tied_linears(walk) if tied[0].weight == "v"]
    found = stored(Walk(refitted(given.context(), given.pruned, (1e-5,)), data.batches), "v")
    # The weights in front are the original's, cut: so both sides of the regression are known here.
    first = stored(walk, "w")
    whole = {t.name: numpy_helper.to_array(t) for t in given.analysis.model.graph.initializer}
    fit = np.concatenate([batch["x"] for batch in data.fit])
    rows = np.concatenate([np.maximum(x @ first, 0) for x in (fit, -3 * fit)])
    kept = [s.keep for s in onnxprune_slices(given) if s.tensor == "v" and s.axis == 1]
    columns = kept[0] if kept else list(range(8))
    wanted = np.concatenate([np.maximum(x @ whole["w"], 0) @ whole["v"][:, columns] for x in (fit, -3 * fit)])
    error = np.square(np.maximum(rows @ found, 0) - np.maximum(wanted, 0)).mean()
    assert error < np.square(np.maximum(rows @ stored(walk, "v"), 0) - np.maximum(wanted, 0)).mean()
    linear = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    assert error <= np.square(np.maximum(rows @ linear, 0) - np.maximum(wanted, 0)).mean() * 1.05
    assert len(layers) == 2


def onnxprune_slices(given: Example) -> list[onnxprune.planning.plan.SlicePlan]:
    from onnxprune.planning.plan import derived

    return derived(given.removal)["slices"]


def test_which_weights_are_tied() -> None:
    def names(model: onnx.ModelProto) -> list[tuple[str, str, int]]:
        walk = Walk(model, calibration().batches)
        return [(t[0].weight, t[0].bias, len(t)) for t in tied_linears(walk)]

    assert names(siamese()) == [("w", "b", 2), ("v", "c", 2)]
    assert [layer.weight for layer in linears(Walk(siamese(), calibration().batches))] == ["u"]
    # A third reader of another kind, of the weight or of the bias.
    table = [node("ReduceSum", ["v"], ["t"]), node("Add", ["s1", "t"], ["s3"])]
    assert names(siamese(table)) == [("w", "b", 2)]
    other = [node("Add", ["k1", "c"], ["s3"])]
    assert names(siamese(other)) == [("w", "b", 2), ("v", "", 2)]


def test_a_pruned_siamese_network_is_repaired_and_checked() -> None:
    model = siamese()
    calib = {"x": np.concatenate([b["x"] for b in calibration(20).batches])}
    settings = PruneSettings(ratio=0.5, align=1, bench=False, calib=calib, recover="refit")
    result = onnxprune.prune(model, settings)
    assert {"v", "w"} & set(result.plan.repaired)
    assert result.report.recovery is not None
    assert result.report.recovery.drift_after < result.report.recovery.drift_before
    assert onnxprune.verify(result.model, model, result.plan).matches_plan


def test_what_goes_is_expressed_by_what_stays_at_all_uses() -> None:
    for biases in (True, False):
        given = pruned_example(biases)
        found = folded(given.context(), given.pruned)
        before, after = (missed(given, m, ["y"])["y"] for m in (given.pruned, found))
        assert after < 0.9 * before, biases


def test_the_moments_of_a_weight_with_several_uses_are_summed() -> None:
    given = example(4, siamese())
    (consumer,) = [c for c in consumers(given.analysis.units) if c.slot.stored.name == "v"]
    assert [view.tensor for view in consumer.views] == ["r1", "r2"]
    assert consumer.bias is not None
    gram, (first, second) = consumer.gram(given.evidence.moments), consumer.views
    moments = given.evidence.moments
    np.testing.assert_allclose(gram.second, moments[first].second + moments[second].second)
    assert gram.count == moments[first].count + moments[second].count
    # A weight that is read by another kind of node, or put out, is nobody's to change.
    table = [node("ReduceSum", ["v"], ["t"]), node("Add", ["s1", "t"], ["s3"])]
    assert "v" not in {c.slot.stored.name for c in consumers(example(4, siamese(table)).analysis.units)}
    model = siamese()
    model.graph.output.append(helper.make_tensor_value_info("v", 1, PARAMS["v"]))
    assert "v" not in {c.slot.stored.name for c in consumers(example(4, model).analysis.units)}


def test_several_steps_take_the_shared_weights_over() -> None:
    model = siamese()
    calib = {"x": np.concatenate([b["x"] for b in calibration(20).batches])}
    settings = PruneSettings(ratio=0.5, align=1, calib=calib, recover="ls")
    loaded = load(model)
    analysis = analyse(loaded.model)
    evidence = gathered(analysis, settings)
    assert evidence is not None
    request = requested(analysis, settings, loaded)
    first = Stage(analysis, scored(analysis, evidence, settings), evidence)
    removal = decide(analysis.units, request, first.scores).removal
    repairs = Repairs(analysis.model, "ls", evidence.data)
    repaired = repairs.repaired(first.pruned(removal.removed), removal, evidence)
    assert repaired is not None
    assert {"v", "c"} <= set(repaired.repaired)
    second = first.after(removal, repaired.model, request)
    again = second.pruned(removal.removed)
    feeds = {"x": calib["x"][:8]}
    wanted, found = (run(open_session(m), feeds)["y"] for m in (repaired.model, again))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
