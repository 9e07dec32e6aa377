"""The targets that we bring: MACs, parameters and bytes that may remain; drift and drop that may come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.analysis.cost import macs, parameters, product
from onnxprune.errors import UsageError
from onnxprune.evaluation.validation import Judge
from onnxprune.model.graph import Stored
from onnxprune.planning.target import Amount, CostTerms, Measured, Quality, QualityData, Term
from onnxprune.quantities import parse_bytes, parse_count, size
from onnxprune.registries import METRICS, TARGETS
from onnxprune.rules.signature import Pinned


def _macs(found: Measured) -> float:
    return macs(found.traced, found.sizes)


def _mac_terms(costs: CostTerms) -> Iterator[Term]:
    for step in costs.traced.steps:
        if step.met is None:
            if isinstance(step.verdict, Pinned) and step.verdict.macs:
                yield float(step.verdict.macs), []
            continue
        for subscripts in step.met.signature.products:
            yield float(product(subscripts, step.met.sizes)), costs.factors(step, subscripts)


TARGETS.add(Amount("macs", "multiply-accumulates of one run", "500M", _macs, _mac_terms, parse_count))


def _params(found: Measured) -> float:
    return parameters(found.model)


def _param_terms(costs: CostTerms) -> Iterator[Term]:
    yield from ((_elements(t), factors) for t, factors in costs.tensors if t.is_parameter)


TARGETS.add(Amount("params", "elements of the weights", "2M", _params, _param_terms, parse_count))


def _bytes(found: Measured) -> float:
    return found.nbytes


def _byte_terms(costs: CostTerms) -> Iterator[Term]:
    yield from ((_elements(t) * t.itemsize, factors) for t, factors in costs.tensors)
    yield float(costs.overhead), []


TARGETS.add(Amount("size", "bytes of the file", "10MB", _bytes, _byte_terms, parse_bytes, size))


def _elements(stored: Stored) -> float:
    return float(np.prod(stored.shape, dtype=np.int64))


def _drift(found: QualityData) -> Judge:
    """Measure drift on the validation data, else on what is held out of the calibration data."""
    if found.judged is not None:
        data, reference = found.judged.data, found.judged.reference
    elif found.held_out is not None:
        data, reference = found.held_out
    else:
        raise UsageError("target drift is measured on data: give calib or validate")
    return Judge(data, reference, METRICS.get("drift"), 0.0, None)


TARGETS.add(Quality("drift", "distance of the outputs from the original's", "0.05 of the outputs", _drift))


def _drop(found: QualityData) -> Judge:
    """Measure what the metric loses on the validation data."""
    if found.judged is None:
        raise UsageError("target drop is measured on data: give validate")
    return found.judged


TARGETS.add(
    Quality(
        "drop", "by how much the metric gets worse, in its own units", "0.01 of the metric", _drop,
        only_validation=True, zero=True,
    )
)  # fmt: skip
