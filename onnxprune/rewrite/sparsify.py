"""Unstructured pruning: zeros by magnitude in weights that keep their shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.patterns import check_known, matcher
from onnxprune.analysis.weights import Weight, find_weights, names_of
from onnxprune.errors import NothingToPrune, UsageError
from onnxprune.model.tensors import EncodeError, all_nodes, all_tensors
from onnxprune.rewrite.sparse_form import encode
from onnxprune.settings.types import check_types


@dataclass(frozen=True)
class SparsifySettings:
    """What to zero: a share of the weights, or all but N of every M along the input channels.

    `exclude` takes names of tensors or of the nodes that use them: glob, `re:...` or `type:Conv`.
    `embeddings` adds the tables that Gather reads. Raises UsageError for settings that cannot be used.
    """

    sparsity: float | None = None
    pattern: str | None = None
    scope: str = "local"
    exclude: tuple[str, ...] = ()
    sparse_initializers: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if (self.sparsity is None) == (self.pattern is None):
            got = "neither" if self.pattern is None else "both"
            raise UsageError(f"one of sparsity (0.5) and pattern (2:4) is required, not both: got {got}")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise UsageError(f"sparsity: got {self.sparsity}, expected a share above 0 and below 1")
        if self.scope not in ("local", "global"):
            raise UsageError(f"scope: got '{self.scope}', expected local or global")
        if self.pattern is not None:
            parse_pattern(self.pattern)
            if self.scope == "global":
                raise UsageError(
                    f"scope global does not go with pattern {self.pattern}: every group is cut alike"
                )


@dataclass(frozen=True)
class TensorReport:
    """One weight. `ungrouped` counts the elements that fit no group of an N:M pattern and stay dense."""

    name: str
    size: int
    zeros_before: int
    zeros_after: int
    ungrouped: int = 0
    encoding: str = "dense"
    note: str = ""

    @property
    def sparsity(self) -> float:
        """Zeros / size."""
        return self.zeros_after / self.size


@dataclass(frozen=True)
class SparsifyReport:
    """All weights that were considered, in the order of their first use. Bytes are those of the model."""

    tensors: tuple[TensorReport, ...]
    bytes_before: int
    bytes_after: int

    @property
    def size(self) -> int:
        return sum(t.size for t in self.tensors)

    @property
    def zeros_before(self) -> int:
        return sum(t.zeros_before for t in self.tensors)

    @property
    def zeros_after(self) -> int:
        return sum(t.zeros_after for t in self.tensors)

    @property
    def sparsity(self) -> float:
        """Zeros / size over all tensors."""
        return self.zeros_after / self.size

    def to_dict(self) -> dict[str, Any]:
        total = {k: getattr(self, k) for k in ("size", "zeros_before", "zeros_after", "sparsity")}
        tensors = [{**asdict(t), "sparsity": t.sparsity} for t in self.tensors]
        return {
            "total": total,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "tensors": tensors,
        }


@dataclass(frozen=True)
class SparsifyResult:
    """The new model and what was done to it."""

    model: onnx.ModelProto
    report: SparsifyReport


def sparsify(model: onnx.ModelProto, settings: SparsifySettings) -> SparsifyResult:
    """Zero the smallest weights of a copy of the model, to the exact count asked for.

    Magnitude pruning (Han et al. 2015, arXiv:1506.02626); N:M patterns as in Mishra et al. 2021,
    arXiv:2104.08378. Cuts the weights of Conv, ConvTranspose, Gemm, MatMul, Einsum and RNNs, in subgraphs
    and functions too; no biases, no normalisations. Zeros that are there already count; of equal weights the
    first go. Raises UsageError for a pattern in `exclude` that matches nothing, NothingToPrune without
    weights, ModelError where external data is not loaded.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = _chosen(result, settings)
    if settings.pattern is not None:
        kept, group = parse_pattern(settings.pattern)
        tensors = [_cut_pattern(w, kept, group) for w in weights]
    else:
        # read as written: 0.29 of 100 is 29, where floats multiply to 28.999...
        share = Fraction(repr(float(settings.sparsity or 0)))
        tensors = (_cut_global if settings.scope == "global" else _cut_local)(weights, share)
    if settings.sparse_initializers:
        notes = encode(result, [w.constant for w in weights])
        tensors = [
            replace(t, encoding=e, note=_joined(t.note, n)) for t, (e, n) in zip(tensors, notes, strict=True)
        ]
    return SparsifyResult(result, SparsifyReport(tuple(tensors), model_bytes(model), model_bytes(result)))


def parse_pattern(text: str) -> tuple[int, int]:
    """Read 'N:M': N of every M consecutive weights are kept. Raises UsageError unless 1 <= N < M."""
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", text)
    kept, group = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= kept < group:
        raise UsageError(
            f"pattern: got '{text}', expected N:M with 1 <= N < M, such as 2:4 (keep 2 of every 4)"
        )
    return kept, group


def model_bytes(model: onnx.ModelProto) -> int:
    """Serialised bytes; above protobuf's 2 GiB those of the tensors alone."""
    try:
        return model.ByteSize()
    except EncodeError:
        return sum(t.ByteSize() for t in all_tensors(model))


def _chosen(model: onnx.ModelProto, settings: SparsifySettings) -> list[Weight]:
    weights = find_weights(model, settings.embeddings)
    excluded: set[int] = set()
    for pattern in settings.exclude:
        test = matcher(pattern)
        hits = {i for i, w in enumerate(weights) if any(test(name, op) for name, op in w.names())}
        if not hits:  # what only names other nodes is harmless
            check_known([pattern], _names(model))
        excluded |= hits
    chosen = [weight for i, weight in enumerate(weights) if i not in excluded]
    if not chosen:
        raise NothingToPrune(f"no weight left to sparsify: {len(weights)} found, {len(excluded)} excluded")
    return chosen


def _names(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """List the names of all nodes, with their operator types, and of all tensors."""
    nodes = list(all_nodes(model))
    inputs = ((name, "") for node in nodes for name in node.input if name)
    return sorted({*(pair for node in nodes for pair in names_of(node)), *inputs})


def _scores(array: np.ndarray) -> np.ndarray:
    """Magnitudes, flat, in fp32 (fp64 stays); what is not a number counts as large and is kept."""
    score = np.abs(array.astype(np.float64 if array.dtype == np.float64 else np.float32)).reshape(-1)
    score[np.isnan(score)] = np.inf
    return score


def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """Ascending indices of the `count` smallest scores, of equal ones the first."""
    if count < 1:
        return np.zeros(0, np.int64)
    limit = np.partition(scores, count - 1)[count - 1]
    below = np.flatnonzero(scores < limit)
    ties = np.flatnonzero(scores == limit)[: count - len(below)]
    return np.sort(np.concatenate((below, ties)))


def _zero(weight: Weight, array: np.ndarray, indices: np.ndarray) -> TensorReport:
    """Write zeros at flat indices of the stored array, and count them."""
    before = int(np.count_nonzero(array == 0))
    flat = array.flatten()
    flat[indices] = 0
    after = int(np.count_nonzero(flat == 0))
    if after != before:  # what does not change keeps its bytes
        weight.constant.store(flat.reshape(array.shape))
    note = "nothing is left of it" if after == flat.size else ""
    encoding = "sparse" if weight.constant.is_sparse else "dense"
    return TensorReport(weight.constant.name, flat.size, before, after, encoding=encoding, note=note)


def _cut_local(weights: Sequence[Weight], share: Fraction) -> list[TensorReport]:
    loaded = ((weight, weight.constant.load()) for weight in weights)
    return [
        _zero(weight, array, _lowest(_scores(array), int(share * array.size))) for weight, array in loaded
    ]


def _cut_global(weights: Sequence[Weight], share: Fraction) -> list[TensorReport]:
    scores = [_scores(weight.constant.load()) for weight in weights]
    ends = np.cumsum([len(s) for s in scores])
    lowest = _lowest(np.concatenate(scores), int(share * int(ends[-1])))
    parts = np.split(lowest, np.searchsorted(lowest, ends[:-1]))
    starts = (0, *ends[:-1])
    return [
        _zero(weight, weight.constant.load(), part - start)
        for weight, part, start in zip(weights, parts, starts, strict=True)
    ]


def _cut_pattern(weight: Weight, kept: int, group: int) -> TensorReport:
    """Zero all but `kept` of every `group` neighbours along the input channels."""
    array = weight.constant.load()
    rows, clash = _rows(weight, group)
    order = np.argsort(_scores(array)[rows], axis=1, kind="stable")[:, : group - kept]
    report = _zero(weight, array, np.take_along_axis(rows, order, axis=1).reshape(-1))
    note = ""
    if clash:
        note = "grouped as its first use sees it; another use sees other channels"
    elif not rows.size:
        contracts = any(use.reading is not None for use in weight.uses)
        note = f"fewer than {group} input channels" if contracts else "no input channels"
    return replace(report, ungrouped=array.size - rows.size, note=_joined(report.note, note))


def _rows(weight: Weight, group: int) -> tuple[np.ndarray, bool]:
    """Flat places of the weight's groups, one a row, and whether uses disagree about them.

    A weight cut in parts has uses that see a part each; one that is shared has uses that see the same.
    """
    stored = {use.reading: use for use in reversed(weight.uses) if use.places is None}
    different = [u for u in weight.uses if u.places is not None or stored[u.reading] is u]
    rows: list[np.ndarray] = []
    owner, clash = None, False
    for use in different:
        new = _groups(use.lines(), group)
        if len(different) > 1:
            owner = np.full(weight.constant.size, -1, np.int64) if owner is None else owner
            held = owner[new]
            fresh = (held < 0).all(axis=1)
            clash = clash or bool((~fresh & ((held != held[:, :1]).any(axis=1))).any())
            first = sum(len(r) for r in rows)
            new = new[fresh]
            owner[new] = first + np.arange(len(new))[:, None]
        rows.append(new)
    return np.concatenate(rows), clash


def _groups(lines: np.ndarray, group: int) -> np.ndarray:
    """Cut lines of input channels into whole groups of neighbours, one a row."""
    rows = lines[:, : lines.shape[1] // group * group].reshape(-1, group)
    # -1 stands for elements of other tensors: a group that is not whole here is left alone
    return rows[(rows >= 0).all(axis=1)]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
