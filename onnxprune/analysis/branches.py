"""Branches that are always taken: the condition follows from ranks, and from sizes that do not change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from onnxprune.analysis.trace import trace
from onnxprune.analysis.varying import varying_of
from onnxprune.errors import ModelError, UnprovedError, UsageError
from onnxprune.model.branches import Branch, write_out
from onnxprune.model.feeds import feeds_for
from onnxprune.model.graph import network, opsets_of
from onnxprune.model.imported import to_graph
from onnxprune.model.inference import Inference
from onnxprune.model.lifting import Lifted, lift
from onnxprune.model.runtime import open_session, run, runtime_errors
from onnxprune.model.shapes import ShapeReader
from onnxprune.model.sizes import default_sizes
from onnxprune.rules.registry import REGISTRY, facets_of
from onnxprune.rules.signature import Branching

ATTEMPTS = 4  # sizes of the inputs at which both forms are run
MOST = 64  # nodes whose branches are tried beside each other
ROUNDS = 16  # a branch that is written out may hold others, and decide the next
_SHOWN = re.compile(r"If\((.+)\)::(\w+)")


def with_decided_branches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Write out the branches whose condition is the same for all inputs; return their names, too.

    A condition is decided where it is computed from stored values, ranks, and dims that do not follow the
    sizes of the model's inputs.
    """
    names: list[str] = []
    for _ in range(ROUNDS):
        found = list(_decided(model)) if any(_choosing(model)) else []
        if not found:
            break
        model = write_out(model, found)
        names += map(str, found)
    return model, tuple(names)


def with_branches(model: onnx.ModelProto, names: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Write out the branches of these names, and those inside of them; return the names that are left."""
    left = [name for name in names if is_branch(name)]
    while left:
        outputs = {output for output, _ in _choosing(model)}
        here: list[Branch] = []
        while left and _branch(left[0]).output in outputs:  # one inside of another may make the same tensor
            here.append(_branch(left.pop(0)))
            outputs.remove(here[-1].output)
        if not here:
            break
        model = write_out(model, here)
    return model, left


def with_lifted_branches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Lifted, ...]]:
    """Lay the branches of Ifs beside each other, where both run on the same inputs and make one size.

    So both are labelled, tied at their results, pruned and proved, whichever an input takes.
    """
    lifted: list[Lifted] = []
    laid_out, passed = model, set[str]()
    while (found := _undecided(laid_out, passed)) is not None and len(passed) < MOST:
        passed.add(found[0])
        further, one = lift(laid_out, found[0], found[1].attributes, found[1].chooser)
        if _one_size(further, one):
            laid_out = further
            lifted.append(one)
    if not lifted or not _both_run(model, laid_out):
        return model, ()
    return laid_out, tuple(lifted)


def with_branches_of(
    model: onnx.ModelProto, outputs: Sequence[str]
) -> tuple[onnx.ModelProto, tuple[Lifted, ...]]:
    """Lay out the branches of the nodes with these first outputs.

    Raises UsageError where the model does not have them.
    """
    lifted: list[Lifted] = []
    for output in outputs:
        branching = dict(_choosing(model)).get(output)
        if branching is None:
            raise UsageError(f"the plan prunes branches of '{output}', which no If of this model makes")
        model, one = lift(model, output, branching.attributes, branching.chooser)
        lifted.append(one)
    return model, tuple(lifted)


def _undecided(model: onnx.ModelProto, passed: set[str]) -> tuple[str, Branching] | None:
    return next(((name, both) for name, both in _choosing(model) if name not in passed), None)


def _choosing(model: onnx.ModelProto) -> Iterator[tuple[str, Branching]]:
    """The nodes of the outer graph that choose a branch: their first output, and how."""
    opsets = opsets_of(model)
    for node in model.graph.node:
        branching = facets_of(node, opsets).branching
        if branching is not None and node.output:
            yield node.output[0], branching


def _one_size(model: onnx.ModelProto, lifted: Lifted) -> bool:
    """Tell whether both branches make results of one size, which is that of the choice between them.

    Where inference stops, both are run.
    """
    results = [
        (*node.input[1:], node.output[0])
        for node in model.graph.node
        if node.output and node.output[0] in lifted.node.output
    ]
    reader = ShapeReader(model)
    try:
        known = reader.infer(default_sizes(model)[0])
        unknown = [n for names in results for n in names if n not in known or known[n].shape is None]
        if unknown:
            feeds = _small_inputs(model)
            if feeds is None:
                return False
            known |= reader.read(feeds, unknown)
    except (ModelError, UsageError, UnprovedError):
        return False
    shapes = [{known[name].shape for name in names} for names in results]
    return all(len(sizes) == 1 and None not in sizes for sizes in shapes)


def _both_run(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Tell whether a model runs where the one before does: a branch that is not taken need not."""
    feeds = _small_inputs(before)
    if feeds is None:
        return False
    failures: tuple[type[Exception], ...] = (UnprovedError, *runtime_errors())
    try:
        run(open_session(after), feeds)
    except failures:
        return False
    return True


def _small_inputs(model: onnx.ModelProto) -> dict[str, np.ndarray] | None:
    """Find inputs that the model runs with, the smallest first: large ones tell no more, and cost."""
    failures: tuple[type[Exception], ...] = (UsageError, UnprovedError, *runtime_errors())
    for sizes in sorted(default_sizes(model), key=Inference(model).largest)[:ATTEMPTS]:
        try:
            return feeds_for(model, sizes)
        except failures:
            continue
    return None


def is_branch(name: str) -> bool:
    """Tell whether a name in a plan is that of a branch, and not that of a function."""
    return _SHOWN.fullmatch(name) is not None


def _branch(name: str) -> Branch:
    match = _SHOWN.fullmatch(name)
    assert match is not None
    return Branch(match[1], match[2])


def _decided(model: onnx.ModelProto) -> Iterator[Branch]:
    sizes, reader = default_sizes(model)[0], ShapeReader(model)
    try:
        shapes = {name: value.shape for name, value in reader.infer(sizes).items()}
    except ModelError:  # the analysis says what is wrong with it
        return
    opsets = opsets_of(model)
    traced = trace(network(to_graph(model), opsets), shapes, varying=varying_of(reader, shapes, sizes))
    for step in traced.steps:
        chosen = REGISTRY.facets(step.site.domain, step.node.op, step.site.opset).branching
        condition = step.site.value(0)
        if chosen is None or condition is None or condition.size != 1 or step.site.dynamic(0).any():
            continue
        yield Branch(step.node.outputs[0].name, chosen.attributes[0 if condition.ravel()[0] else 1])
