"""What a signature says of a normalisation is enough to write it over kept channels only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxprune.analysis.axes import subscript_sizes
from onnxprune.rules import REGISTRY, Facets, Normalisation, Registry, Signature, Site, Verdict
from onnxprune.rules.signature import Axes, Axis, numbered
from tests.laws.label_law import Bench, bench, normalised, summed
from tests.laws.operator_cases import FUSED, NORMS, OperatorCase

CASES = [c for c in (*NORMS, *FUSED) if c.op.endswith("Normalization")]


def signature_of(table: Bench) -> tuple[Site, Signature]:
    step = next(s for s in table.units.traced.steps if s.site.name == "node")
    assert isinstance(step.verdict, Signature)
    return step.site, step.verdict


def spread(values: np.ndarray, own: Axes, whole: Axis, sizes: dict[str, int]) -> np.ndarray:
    """Lay a tensor out with one dimension for each subscript of the whole."""
    subscripts = [x for axis in own for x in axis]
    grid = values.reshape([sizes[x] for x in subscripts])
    grid = grid.transpose(sorted(range(len(subscripts)), key=lambda i: whole.index(subscripts[i])))
    return grid[tuple(slice(None) if x in subscripts else None for x in whole)]


def written(
    signature: Signature,
    sizes: dict[str, int],
    data: np.ndarray,
    params: Sequence[np.ndarray],
    shown: np.ndarray,
) -> list[np.ndarray]:
    """Normalise over what is shown as the signature says: output, mean, 1 / deviation."""
    how = signature.normalisation
    assert how is not None
    axes = signature.outputs[0]
    assert axes is not None
    whole = tuple(x for axis in axes for x in axis)
    over = tuple(i for i, x in enumerate(whole) if x in signature.normalised)
    x, kept = (
        spread(v, axes, whole, sizes) for v in (data.astype(np.float64), np.broadcast_to(shown, data.shape))
    )
    count = np.maximum(kept.sum(axis=over, keepdims=True), 1)
    mean = (x * kept).sum(axis=over, keepdims=True) / count
    if how.centred:
        x = x - mean
    inverse = 1 / np.sqrt((x**2 * kept).sum(axis=over, keepdims=True) / count + how.epsilon)
    y = x * inverse
    places = [p for p in (how.scale, how.bias) if p is not None]
    for place, param in zip(places, params, strict=True):
        own = signature.inputs[place]
        assert own is not None
        wide = spread(param.astype(np.float64), own, whole, sizes)
        y = y * wide if place == how.scale else y + wide
    return [v.reshape(data.shape if v is y else -1) for v in (y, mean, inverse)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_computed_as_the_signature_says(case: OperatorCase) -> None:
    table = bench(case)
    site, signature = signature_of(table)
    how = signature.normalisation
    if how is None:
        assert not signature.normalised
        return
    sizes = subscript_sizes(signature, site.inputs, site.outputs)
    place = how.summed
    data = table.values["x0"] if place is None else summed(table)
    stored = [p for p in (how.scale, how.bias) if p is not None]
    params = [np.asarray(case.inputs[p]) for p in stored]
    rng = np.random.default_rng(3)
    every, some = np.ones(data.shape, bool), rng.random(data.shape) < 0.6
    made = dict(
        zip(
            table.outputs,
            table.alone.run(table.outputs, {n: table.values[n] for n in table.live}),
            strict=True,
        )
    )
    found = written(signature, sizes, data, params, every)
    np.testing.assert_allclose(found[0], made["y0"], rtol=1e-4, atol=1e-5)
    if place is not None and f"y{place}" in made and made[f"y{place}"].size:
        np.testing.assert_allclose(data, made[f"y{place}"], rtol=1e-5, atol=1e-6)
    given = (how.mean, how.inverse) if case.op == "LayerNormalization" else ()
    for output, values in zip(given, found[1:], strict=False):
        if output is not None and f"y{output}" in made:
            np.testing.assert_allclose(values, made[f"y{output}"].ravel(), rtol=1e-4, atol=1e-5)
    wanted = normalised(case, data, some)[0]
    np.testing.assert_allclose(written(signature, sizes, data, params, some)[0], wanted, rtol=1e-4, atol=1e-5)


def test_every_rule_of_ours_that_normalises_says_how() -> None:
    tried = set()
    for case in CASES:
        site, signature = signature_of(bench(case))
        assert (signature.normalisation is None) == (not signature.normalised), case.name
        assert not [r for r in signature.pins.values() if "does not say how" in r]
        tried |= {site.op} if signature.normalised else set()
    assert len(tried) == 8


def unsaid(site: Site) -> Verdict:
    """Normalise over the last axis."""
    axes = numbered(site.shape())
    return Signature((axes,), (axes,), normalised=frozenset(axes[-1]))


def said(site: Site) -> Verdict:
    """Normalise over the last axis, and say how."""
    axes = numbered(site.shape())
    return Signature((axes,), (axes,), normalised=frozenset(axes[-1]), normalisation=Normalisation(1e-6))


def test_a_rule_that_does_not_say_how_pins_the_axis() -> None:
    registry = Registry()
    registry.rule("Unsaid", domain="acme")(unsaid)
    registry.rule("Said", domain="acme", facets=Facets(moves=True))(said)
    site = Site("Unsaid", "acme", 1, "node", {}, ((2, 3),), ((2, 3),), (), ())
    first, second = (registry.find("acme", op, 1) for op in ("Unsaid", "Said"))
    assert first is not None
    assert second is not None
    verdicts = [rule.verdict(site) for rule in (first, second)]
    assert [v.pins for v in verdicts if isinstance(v, Signature)] == [
        {"x1": "Unsaid normalises over this axis, and its rule does not say how"}, {},
    ]  # fmt: skip
    assert registry.facets("acme", "Said", 1).moves
    assert not registry.facets("acme", "Other", 1).moves
    assert REGISTRY.facets("ai.onnx", "Cast", 13).element_type == "to"
