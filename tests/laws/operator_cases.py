"""Small cases of every operator: shapes, attributes, opset forms. One line per case.

An input is a shape (an activation whose axes are all labelled), `plain` (a graph input without labels),
`ints` or `bools` (labelled, of another type), an array (stored in the model) or None (left out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Fed:
    """An input by shape: labelled or not, and of which type."""

    shape: tuple[int, ...]
    labelled: bool = True
    dtype: str = "float32"


INT4, UINT4, FLOAT8 = ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn
Input: TypeAlias = Fed | np.ndarray | None


@dataclass(frozen=True)
class OperatorCase:
    """One node. whole: nothing may be removed in front of it."""

    op: str
    inputs: tuple[Input, ...]
    opset: int
    outputs: int
    attrs: dict[str, Any]
    whole: bool
    domain: str = ""

    @property
    def name(self) -> str:
        shapes = [None if x is None else tuple(x.shape) for x in self.inputs]
        attrs = {k: v for k, v in self.attrs.items() if not isinstance(v, np.ndarray)}
        return f"{self.op}-{self.opset} {shapes} {attrs}".replace("/", " ")


def case(
    op: str, *inputs: Any, opset: int = 17, outputs: int = 1, whole: bool = False, **attrs: Any
) -> OperatorCase:
    return OperatorCase(op, tuple(_input(x) for x in inputs), opset, outputs, attrs, whole)


def microsoft(op: str, *inputs: Any, outputs: int = 1, whole: bool = False, **given: Any) -> OperatorCase:
    """A case of an operator of onnxruntime's own domain."""
    made = case(op, *inputs, opset=21, outputs=outputs, whole=whole)
    return replace(made, attrs=given, domain="com.microsoft")


def _input(given: Any) -> Input:
    if isinstance(given, tuple):
        return Fed(given)
    return np.asarray(given) if isinstance(given, list) else given


def codes(*shape: int, dtype: Any = np.int8, step: int = 3) -> np.ndarray:
    """Stored codes of a quantised tensor, no two neighbours alike."""
    low = 0 if np.dtype(dtype).kind == "u" else -7
    return (low + np.arange(np.prod(shape, dtype=int)) * step % 11).reshape(shape).astype(dtype)


def bytes_(*shape: int) -> Fed:
    return ints(*shape, dtype="uint8")


def plain(*shape: int, dtype: str = "float32") -> Fed:
    return Fed(shape, labelled=False, dtype=dtype)


def ints(*shape: int, dtype: str = "int64") -> Fed:
    return Fed(shape, dtype=dtype)


def bools(*shape: int) -> Fed:
    return Fed(shape, dtype="bool")


def stored(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (0.5 + rng.random(shape)).astype(np.float32)


def scalar(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(value, dtype=dtype)


UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf",
    "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu",
    "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan",
    "Tanh", "ThresholdedRelu", "IsInf", "IsNaN", "Dropout", "Affine",
)  # fmt: skip
OLD = {"Affine": 9, "Dropout": 11}
BINARY = (
    "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mul",
    "Pow", "PRelu", "Sub", "Sum",
)  # fmt: skip
REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
ELEMENTWISE: Sequence[OperatorCase] = (
    *(case(op, (2, 5, 3), opset=OLD.get(op, 17)) for op in UNARY),
    case("Gelu", (2, 5), opset=20), case("Mish", (2, 5), opset=18), case("Swish", (2, 5), opset=24),
    case("Not", bools(2, 5)), case("BitwiseNot", ints(2, 5), opset=18), case("Cast", (2, 5), to=7),
    case("ImageScaler", (1, 4, 3, 3), opset=9, scale=2.0, bias=[1.0, 2.0, 3.0, 4.0]),
    case("CastLike", (2, 5), scalar(1.0, np.float64)), case("CastLike", (2, 5), (4, 3)),
    case("CastLike", scalar(0.5), (4, 3)), case("Clip", (2, 5), scalar(-0.5), scalar(0.5)),
    case("Clip", (2, 5), None, scalar(0.5)), case("Clip", (2, 5), opset=10, min=-0.5, max=0.5),
    *(case(op, (2, 5, 3), (2, 5, 3)) for op in BINARY),
    *(case(op, (2, 5, 3), stored(5, 1)) for op in BINARY),
    *(case(op, (4, 3), stored(1, 3)) for op in BINARY),
    *(case(op, (4, 3), (4, 1)) for op in BINARY), *(case(op, (4, 3), plain(3)) for op in BINARY),
    *(case(op, stored(3, 1), (4, 3, 5)) for op in BINARY if op not in ("PRelu",)),
    *(case(op, (4, 1), (1, 3)) for op in BINARY if op != "PRelu"),
    *(case(op, (2, 5, 3), scalar(2.0)) for op in BINARY), case("Sum", (4, 3), stored(3), (4, 1)),
    case("Mod", (4, 3), (4, 3), fmod=1), case("Mod", ints(4, 3), np.asarray([3, 2, 4])),
    *(case(op, bools(4, 3), bools(4, 3)) for op in ("And", "Or", "Xor")),
    *(case(op, ints(4, 3), ints(4, 3), opset=18) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    case("BitShift", ints(4, 3, dtype="uint64"), ints(4, 3, dtype="uint64"), direction="LEFT"),
    case("Where", bools(4, 3), (4, 3), scalar(0.0)),
    case("Where", plain(4, 1, dtype="bool"), (4, 3), (3,)),
    case("Where", np.asarray([True, False, True]), (4, 3), stored(4, 3)),
)  # fmt: skip
NORMS: Sequence[OperatorCase] = (
    *(case("BatchNormalization", (2, 4, 3), *[stored(4)] * 4, opset=o) for o in (9, 15)),
    case("BatchNormalization", (2, 4), stored(4), stored(4), stored(4) * 2, stored(4) * 3),
    case("InstanceNormalization", (2, 4, 5), stored(4), stored(4) * 2),
    case("InstanceNormalization", (2, 4, 3, 3), stored(4), stored(4)),
    case("LayerNormalization", (2, 3, 6), stored(6), stored(6) * 2, axis=-1),
    case("LayerNormalization", (2, 3, 6), stored(3, 6), stored(3, 6), axis=1),
    case("LayerNormalization", (2, 3, 6), stored(6), outputs=3),
    case("RMSNormalization", (2, 3, 6), stored(6), opset=23),
    case("SimplifiedLayerNormalization", (2, 3, 6), stored(6)),
    case("GroupNormalization", (2, 6, 4), stored(3), stored(3), opset=18, num_groups=3),
    case("GroupNormalization", (2, 6, 4), stored(6), stored(6), opset=21, num_groups=3),
    case("GroupNormalization", (2, 6, 4), stored(6), stored(6), opset=21, num_groups=1),
    case("GroupNormalization", (2, 6, 4), stored(6), stored(6), opset=21, num_groups=6),
    case("LRN", (2, 6, 3, 3), size=3), case("LpNormalization", (3, 4), axis=1, opset=11),
    case("LpNormalization", (3, 4, 2), axis=0), case("MeanVarianceNormalization", (2, 4, 3, 3)),
    *(case(op, (3, 4, 2), opset=11, axis=1) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(case(op, (3, 4, 2), opset=13, axis=1) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(case(op, (3, 4, 2)) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    case("CumProd", (3, 4), scalar(0, np.int64), opset=26),
    case("CumSum", (3, 4), scalar(1, np.int64)), case("CumSum", (3, 4), scalar(-2, np.int64), reverse=1),
)  # fmt: skip
CONTRACTIONS: Sequence[OperatorCase] = (
    case("Conv", (1, 4, 5), stored(6, 4, 1)),
    case("Conv", (2, 4, 5), stored(6, 4, 3), stored(6), pads=[1, 1]),
    case("Conv", (1, 4, 5, 5), stored(6, 2, 3, 3), stored(6), group=2, strides=[2, 2]),
    case("Conv", (1, 6, 4, 4), stored(6, 1, 3, 3), stored(6), group=6),
    case("Conv", (1, 4, 4, 4), stored(8, 1, 3, 3), group=4),
    case("Conv", (1, 9, 4), stored(6, 3, 1), group=3),
    case("Conv", (1, 4, 5), (6, 4, 3)), case("Conv", plain(1, 4, 5), stored(6, 4, 1), (6,)),
    case("Conv", (1, 4, 5), stored(6, 4, 1), auto_pad="SAME_UPPER", strides=[2]),
    case("Conv", (1, 4, 5), (6, 2, 1), group=2),
    case("ConvTranspose", (1, 4, 5), stored(4, 6, 2), stored(6), strides=[2]),
    case("ConvTranspose", (1, 4, 4, 4), stored(4, 3, 2, 2), stored(6), group=2),
    case("ConvTranspose", (1, 6, 4), stored(6, 1, 3), group=6),
    case("ConvTranspose", (1, 4, 5), (4, 6, 1)),
    *(
        case("Gemm", (4, 3) if ta else (3, 4), stored(5, 4) if tb else stored(4, 5), transA=ta, transB=tb)
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    case("Gemm", (3, 4), stored(4, 5), stored(5)),
    case("Gemm", (3, 4), stored(4, 5), stored(3, 1), beta=2.0),
    case("Gemm", (3, 4), stored(4, 5), scalar(2.0)), case("Gemm", stored(3, 4), (4, 5), (3, 5), alpha=0.5),
    case("Gemm", (3, 4), (4, 5), (1, 5)), case("Gemm", (3, 4), plain(5, 4), transB=1),
    case("MatMul", (3, 4), stored(4, 5)), case("MatMul", (2, 3, 4), (2, 4, 5)),
    case("MatMul", (4,), (4, 5)),
    case("MatMul", (3, 4), (4,)), case("MatMul", (2, 3, 4), stored(4, 5)),
    case("MatMul", stored(3, 4), (2, 4, 5)),
    case("MatMul", (2, 3, 4, 2), (3, 2, 5)), case("MatMul", (2, 1, 3, 4), (5, 4, 2)),
    case("MatMul", (4,), (4,)),
    case("MatMul", (3, 4), plain(4, 5)), case("MatMul", (1, 4), (4, 1)),
    case("MatMul", (2, 3, 4), stored(2, 4, 5)),
    case("Einsum", (3, 4), (4, 5), equation="ij,jk->ik"),
    case("Einsum", (2, 3, 4), stored(4, 5), equation="bij,jk"),
    case("Einsum", (2, 3, 4), (2, 5, 4), equation="bhd, bkd -> bhk"),
    case("Einsum", (3, 4), equation="ij->ji"),
    case("Einsum", (3, 4), equation="ij->j"), case("Einsum", (3, 3), equation="ii->i", whole=True),
    case("Einsum", (2, 3, 4), (4, 5), equation="...j,jk->...k"),
    case("Einsum", (2, 1, 3, 4), (1, 5, 4, 2), equation="...ij,...jk"),
    case("Einsum", (2, 3, 4), (3, 4), stored(4, 5), equation="bij,ij,jk->bk"),
    case("Einsum", (2, 3, 3), (2, 4), equation="bii,bc->bc"), case("Einsum", (2, 3), (4,), equation="ba,c"),
)  # fmt: skip
LAYOUT: Sequence[OperatorCase] = (
    case("Reshape", (2, 6), [2, 3, 2]), case("Reshape", (2, 3, 4), [2, 12]),
    case("Reshape", (2, 3, 4), [0, -1]),
    case("Reshape", (2, 3, 4), [0, 0, 2, 2]), case("Reshape", (4, 6), [8, 3]),
    case("Reshape", (6, 4), [8, 3], whole=True), case("Reshape", (2, 3, 6, 4), [2, 3, 8, 3]),
    case("Reshape", (6, 4, 5), [8, 3, 5]), case("Reshape", (4, 6, 4), [2, 2, 8, 3]),
    case("Reshape", (1, 6, 2), [6, -1]), case("Reshape", (2, 12), [2, 3, 4]),
    case("Reshape", (2, 6), [-1]),
    case("Reshape", (6, 2), [3, 2, 2]), case("Reshape", (6, 4), [2, 12]),
    case("Flatten", (2, 3, 4)), case("Flatten", (2, 3, 4), axis=2), case("Flatten", (2, 3, 4), axis=0),
    case("Squeeze", (3, 1, 4), [1]), case("Squeeze", (3, 1, 4), opset=11, axes=[1]),
    case("Squeeze", (1, 3, 1)), case("Squeeze", (1, 3, 1), opset=11),
    case("Unsqueeze", (3, 4), [0, -1]), case("Unsqueeze", (3, 4), opset=11, axes=[1]),
    case("Transpose", (2, 3, 4), perm=[2, 0, 1]), case("Transpose", (2, 3, 4)),
    case("Expand", (3, 1), [3, 4]), case("Expand", (3, 4), [2, 1, 1]),
    case("Expand", (3, 1, 2), [2, 3, 4, 2]),
    case("Expand", (4,), [3, 4]), case("ConstantOfShape", [3, 4]), case("Tile", (3, 2), [1, 2]),
    case("Tile", (3, 2), [2, 1]), case("Tile", (3, 1), [2, 4]),
    case("DepthToSpace", (1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", (1, 12, 2, 2), blocksize=2, mode="CRD"),
    case("DepthToSpace", (2, 4, 3, 2), blocksize=2), case("SpaceToDepth", (1, 3, 4, 2), blocksize=2),
    case("SpaceToDepth", (1, 3, 4, 2), opset=28, blocksize=2, mode="CRD"),
    case("SpaceToDepth", (2, 1, 4, 4), blocksize=2), case("Shape", (3, 4)), case("Size", (3, 4)),
    case("Shape", (3, 4), start=1), case("Range", plain(), scalar(5.0), scalar(1.0)),
)  # fmt: skip
SELECTION: Sequence[OperatorCase] = (
    case("Concat", (2, 3), (2, 4), axis=1), case("Concat", (2, 3), stored(2, 4), axis=-1),
    case("Concat", (2, 3), (4, 3), (1, 3), axis=0), case("Concat", (2, 3), plain(2, 4), axis=1),
    case("Concat", (2, 3, 2), (2, 3, 2), axis=2), case("Concat", plain(1, 3), (2, 3), axis=0),
    case("Split", (3, 6), outputs=3, axis=1), case("Split", (3, 6), [1, 2, 3], outputs=3, axis=1),
    case("Split", (6, 2), opset=11, outputs=2, split=[4, 2]), case("Split", (6, 2), opset=11, outputs=2),
    case("Split", (5, 2), opset=18, outputs=2, num_outputs=2), case("Split", (4, 6), outputs=2, axis=-1),
    case("Slice", (3, 8), [1], [5], [1]), case("Slice", (3, 8), [0], [8], [1], [2]),
    case("Slice", (3, 8), [-1], [-99], [1], [-1]), case("Slice", (3, 8), [-6], [-2], [-1]),
    case("Slice", (4, 8), [1, 2], [3, 99]), case("Slice", (3, 8), opset=9, starts=[2], ends=[6], axes=[1]),
    case("Slice", (3, 8), [6], [1], [1], [-2]), case("Slice", (3, 8), [0], [99], [0]),
    case("Slice", (3, 8), [2], [3], [1]), case("Split", (3, 3), outputs=3, axis=1),
    case("Gather", (2, 6, 3), scalar(-2, np.int64), axis=1), case("Gather", (3, 6), [2], axis=1),
    case("Gather", (3, 6), [4, 0, 2], axis=1), case("Gather", (3, 6), scalar(2, np.int64), axis=1),
    case("Gather", (3, 6), [1, 1, 5, -1, 0], axis=1), case("Gather", (6, 3), [[0, 1], [2, 3]]),
    case("Gather", stored(7, 4), plain(5, dtype="int64")), case("Gather", (4, 3), ints(5), axis=0),
    case("Gather", (3, 4), [0, 1, 2, 3], axis=1), case("Gather", (3, 6), [[0, 1, 2], [3, 4, 5]], axis=1),
    case("Gather", (3, 6), [[[4], [0], [2]]], axis=1), case("Gather", (4, 2), [[[0], [1], [2], [3]]]),
    case("Pad", (3, 4), [0, 1, 0, 2]), case("Pad", (3, 4), [1, 0, 0, 0], scalar(2.0)),
    case("Pad", (3, 4), [0, -1, 0, 1]),
    case("Pad", (3, 4), [0, 1, 0, 1], mode="reflect"), case("Pad", (3, 4), [0, 1, 0, 1], mode="edge"),
    case("Pad", (3, 4), opset=9, pads=[0, 1, 0, 2], value=1.0), case("Pad", (3, 4), [0, -1, 0, -1]),
    case("Pad", (3, 4), [1, 2], None, [1], opset=18),
)  # fmt: skip
TABLE = np.stack(np.meshgrid([0], range(3), [3, 1], range(4), indexing="ij"), axis=-1)  # x[:, :, [3, 1], :]
COLUMNS = np.stack(np.meshgrid(range(3), [1, 4, 6], indexing="ij"), axis=-1)  # x[:, [1, 4, 6]]
INDEXING: Sequence[OperatorCase] = (
    case("GatherND", (6, 3), [[4, 1], [0, 2]], whole=True), case("GatherND", (6, 3), [[4], [0], [-4]]),
    case("GatherND", (6, 3), [[[4], [0]], [[2], [5]]]), case("GatherND", (6, 3, 2), [-2]),
    case("GatherND", (4, 3, 5), [[1, 2], [1, 0]]), case("GatherND", (4, 3, 5), [[2, 1], [3, 1], [0, 1]]),
    case("GatherND", (1, 3, 4, 4), TABLE), case("GatherND", (1, 3, 4, 4, 2), TABLE[:, :, ::-1]),
    case("GatherND", (4, 4, 3), ints(5, 2)), case("GatherND", (4, 3), plain(2, 1, dtype="int64")),
    case("GatherND", (2, 4, 3), ints(2, 5, 1), batch_dims=1),
    case("GatherND", (2, 3, 4, 5), [[[1], [0]], [[2], [1]]], batch_dims=1),
    case("GatherND", (2, 3), [[0, 1], [1, 2]], whole=True),
    case("GatherElements", (4, 3), ints(2, 3)), case("GatherElements", (4, 3), [[1, 0, 3], [2, 1, 0]]),
    case("GatherElements", (2, 4, 3), plain(2, 5, 3, dtype="int64"), axis=1, whole=True),
    case("GatherElements", (4, 3, 2), np.asarray([[[1], [0]]]), axis=0, whole=True),
    case("GatherElements", stored(3, 4), ints(3, 2), axis=-1),
    case("ScatterND", (1, 3, 4, 4), TABLE, (1, 3, 2, 4)),
    case("ScatterND", (1, 3, 4, 4, 2), TABLE, (1, 3, 2, 4, 2)),
    case("ScatterND", (4, 3), [[2]], (1, 3)), case("ScatterND", (4, 3, 5), [[2], [0]], stored(2, 3, 5)),
    case("ScatterND", (4, 3), plain(2, 1, dtype="int64"), (2, 3), opset=18, reduction="add"),
    case("ScatterND", (4, 4, 3), ints(2, 2), (2, 3)), case("ScatterND", stored(4, 3), [[1], [3]], (2, 3)),
    case("ScatterND", (4, 3), [[0], [1], [2], [3]], (4, 3), opset=16, reduction="mul"),
    case("ScatterND", (4, 3), [[3], [1], [2], [0]], (4, 3)),
    case("ScatterND", (4, 3), [[0], [1]], plain(2, 3), whole=True),
    case("ScatterND", (4,), [[2], [0]], (2,)), case("ScatterND", (4,), [[2], [2]], (2,), whole=True),
    case("ScatterND", (6, 3), [[5], [1], [2]], stored(3, 3)),
    case("ScatterND", stored(6, 3), [[-1], [0]], (2, 3)), case("ScatterND", (3, 8, 4), COLUMNS, (3, 3, 4)),
    case("ScatterND", (6, 3), [[2], [4]], plain(2, 3), whole=True),
    case("ScatterElements", (4, 3), [[1, 0, 3], [2, 1, 0]], (2, 3)),
    case("ScatterElements", (2, 4, 3), ints(2, 2, 3), (2, 2, 3), axis=1),
    case("ScatterElements", (4, 3), plain(1, 3, dtype="int64"), stored(1, 3), opset=18, reduction="max",
         whole=True),
    case("ScatterElements", (4, 3, 2), np.asarray([[[1], [0]]]), (1, 2, 1), whole=True),
    case("Scatter", (4, 3), [[1, 0, 3], [2, 1, 0]], (2, 3), opset=9),
)  # fmt: skip
REDUCTIONS: Sequence[OperatorCase] = (
    *(case(op, (3, 4, 2), axes=[1], opset=11) for op in REDUCE),
    *(case(op, (3, 4, 2), [-1], opset=18, keepdims=0) for op in REDUCE),
    *(case(op, (3, 4), opset=13, keepdims=0) for op in REDUCE),
    case("ReduceSum", (3, 4, 2), [0, 2], opset=13),
    case("ReduceSum", (3, 4), opset=13, noop_with_empty_axes=1),
    case("ReduceMean", (3, 4, 2), axes=[0, 1], opset=13),
    case("ReduceMax", (3, 4, 2), axes=[-1, 0], opset=13),
    *(case(op, (2, 4, 3, 3)) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    *(case(op, (2, 4, 5, 5), kernel_shape=[2, 2]) for op in ("AveragePool", "MaxPool", "LpPool")),
    case("MaxPool", (2, 4, 6), kernel_shape=[2], strides=[2], outputs=2, whole=True),
    case("AveragePool", (1, 4, 5), kernel_shape=[3], pads=[1, 1], count_include_pad=1),
    case("Crop", (2, 4, 5, 5), opset=9, border=[1, 1, 1, 1]),
    *(case(op, (3, 4), axis=1) for op in ("ArgMax", "ArgMin")), case("ArgMax", (3, 4), axis=0, keepdims=0),
    case("TopK", (3, 6), [2], axis=1, outputs=2), case("TopK", (6, 3), opset=9, k=2, axis=0, outputs=2),
    case("TopK", (6, 3), [1], axis=0, outputs=2, largest=0),
    case("NonMaxSuppression", (1, 5, 4), (1, 2, 5), scalar(3, np.int64), scalar(0.5), whole=True),
    case("Resize", (1, 4, 3, 3), None, np.asarray([1, 1, 2, 2], np.float32), mode="nearest"),
    case("Resize", (1, 4, 3, 3), None, None, [1, 4, 5, 6], mode="linear"),
    case("Resize", (1, 4, 3, 3), np.asarray([1, 1, 2, 2], np.float32), opset=10, mode="nearest"),
    case("Resize", (1, 4, 2, 3), None, None, [4, 2], opset=18, axes=[1, -2], mode="nearest",
         keep_aspect_ratio_policy="not_smaller"),
    case("Resize", (2, 4, 3), None, None, [2, 6, 3], opset=18, keep_aspect_ratio_policy="not_larger"),
    case("Resize", (2, 4, 3, 3), None, None, [4, 6, 6], opset=18, axes=[1, 2, 3],
         keep_aspect_ratio_policy="not_larger"),
    case("Upsample", (1, 4, 3, 3), np.asarray([1, 1, 2, 2], np.float32), opset=9, mode="nearest"),
    case("Upsample", (1, 4, 3, 3), opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]),
)  # fmt: skip
SIGNAL = (2, 6, 1)
SAMPLING: Sequence[OperatorCase] = (
    case("GridSample", (2, 4, 5, 5), (2, 3, 4, 2), opset=16, mode="bilinear"),
    case("GridSample", (1, 4, 5, 3, 4), (1, 2, 3, 4, 3), opset=20, mode="linear", align_corners=1),
    case("GridSample", (2, 4, 5, 5), plain(2, 3, 4, 2), opset=22, padding_mode="border"),
    microsoft("GridSample", (1, 4, 5, 5), (1, 3, 4, 2)),
    case("RoiAlign", (4, 5, 6, 6), (3, 4), ints(3), opset=16, output_height=2, output_width=2,
         sampling_ratio=2),
    case("RoiAlign", (4, 5, 6, 6), plain(3, 4), np.asarray([2, 0, 1]), opset=10, mode="max",
         sampling_ratio=1),
    case("MaxRoiPool", (1, 5, 6, 6), np.asarray([[0, 0, 0, 3, 3], [0, 1, 2, 4, 5]], np.float32),
         pooled_shape=[2, 2]),
    case("DeformConv", (1, 4, 5, 5), stored(6, 4, 3, 3), (1, 18, 3, 3), opset=19),
    case("DeformConv", (2, 4, 5, 5), stored(6, 4, 2, 2), (2, 16, 4, 4), stored(6), (2, 8, 4, 4), opset=22,
         offset_group=2),
    case("DeformConv", (1, 8, 3, 3), stored(6, 4, 1, 1), (1, 8, 3, 3), None, plain(1, 4, 3, 3), opset=19,
         group=2, offset_group=4),
    case("DeformConv", (1, 8, 3, 3), stored(8, 2, 1, 1), (1, 4, 3, 3), opset=19, group=4, offset_group=2),
    case("DeformConv", (1, 4, 4, 4), stored(4, 1, 1, 1), plain(1, 8, 4, 4), opset=19, group=4, offset_group=4,
         whole=True),
    case("DeformConv", (1, 12, 3, 3), stored(6, 6, 1, 1), (1, 6, 3, 3), opset=19, group=2, offset_group=3,
         whole=True),
    case("MaxUnpool", (1, 4, 2), ints(1, 4, 2), opset=11, kernel_shape=[2], strides=[2], whole=True),
)  # fmt: skip
TRANSFORMS: Sequence[OperatorCase] = (
    case("DFT", (2, 6, 1), axis=1), case("DFT", (2, 6, 4, 2), opset=17, axis=2, inverse=1),
    case("DFT", (2, 4, 6, 1), opset=20),
    case("DFT", (2, 6, 4, 1), scalar(4, np.int64), scalar(1, np.int64), opset=20, onesided=1),
    case("STFT", SIGNAL, scalar(2, np.int64), stored(4), onesided=0),
    case("STFT", SIGNAL, scalar(1, np.int64), None, scalar(3, np.int64), onesided=0),
    case("ReverseSequence", (5, 2, 4), ints(2)),
    case("ReverseSequence", (2, 5, 3), [2, 4], batch_axis=0, time_axis=1),
    case("Trilu", (2, 3, 4, 4)), case("Trilu", (2, 4, 5), scalar(1, np.int64), upper=0),
    case("OneHot", ints(2, 3), scalar(4, np.int64), np.asarray([0.5, 2.0], np.float32)),
    case("OneHot", ints(5), scalar(3, np.int64), np.asarray([0.0, 1.0], np.float32), axis=0),
)  # fmt: skip
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def recurrent(op: str, *more: Any, dirs: int = 1, hidden: int = 3, **given: Any) -> OperatorCase:
    """X [4, 2, 3] with stored W and R; `more` are the inputs from B on."""
    rows, outputs = GATES[op] * hidden, given.pop("outputs", 3 if op == "LSTM" else 2)
    weights = (drawn(dirs, rows, 3), given.pop("recurrence", drawn(dirs, rows, hidden)))
    direction = "bidirectional" if dirs == 2 else given.pop("direction", "forward")
    given |= {"direction": direction, "hidden_size": hidden}
    return case(op, (4, 2, 3), *weights, *more, outputs=outputs, **given)


RECURRENT: Sequence[OperatorCase] = (
    *(recurrent(op, opset=opset) for op in GATES for opset in (7, 14, 22)),
    *(recurrent(op, dirs=2, hidden=4, outputs=1) for op in GATES),
    *(recurrent(op, drawn(2, 2 * GATES[op] * 3), dirs=2) for op in GATES),
    *(recurrent(op, drawn(1, 2 * GATES[op] * 3), direction="reverse") for op in GATES),
    *(recurrent(op, None, np.asarray([4, 2], np.int32), (1, 2, 3), clip=0.5) for op in GATES),
    *(recurrent(op, None, None, drawn(1, 2, 3)) for op in GATES),
    *(recurrent(op, None, None, (2, 2, 3), dirs=2) for op in GATES),
    *(recurrent(op, None, None, drawn(2, 2, 3), dirs=2) for op in GATES),
    *(recurrent(op, None, None, plain(1, 2, 3)) for op in GATES),
    *(recurrent(op, recurrence=(1, GATES[op] * 3, 3)) for op in GATES),
    *(case(op, (4, 2, 3), (2, n * 3, 3), (2, n * 3, 3), (2, n * 6), outputs=2, hidden_size=3,
           direction="bidirectional") for op, n in GATES.items()),
    recurrent("LSTM", None, None, None, drawn(1, 2, 3)), recurrent("LSTM", None, None, (1, 2, 3), (1, 2, 3)),
    recurrent("LSTM", None, None, None, None, drawn(1, 9)), recurrent("LSTM", hidden=1),
    recurrent("LSTM", drawn(2, 24), None, None, drawn(2, 2, 3), drawn(2, 9), dirs=2),
    recurrent("LSTM", None, None, None, (2, 2, 3), (2, 9), dirs=2, input_forget=1),
    recurrent("LSTM", activations=["HardSigmoid", "Softsign", "Affine"], activation_alpha=[0.3, 1.5],
              activation_beta=[0.4, 0.2]),
    recurrent("GRU", drawn(1, 18), linear_before_reset=1),
    recurrent("GRU", drawn(2, 18), dirs=2, linear_before_reset=1),
    recurrent("RNN", dirs=2, activations=["Relu", "Tanh"], clip=2.0),
)  # fmt: skip
SEEN = np.asarray([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1]], np.int32)
PLACES = np.asarray([[0, 1, 2], [2, 3, 1]], np.int64)
SHIFTED = np.asarray([2], np.int64)
HEADS = (2, 4, 3, 2), (2, 2, 5, 2), (2, 2, 5, 3)
FLAT = (2, 3, 8), (2, 5, 4), (2, 5, 6)
PAST = (2, 2, 4, 2), (2, 2, 4, 3)
ATTENTION: Sequence[OperatorCase] = (
    case("Attention", *HEADS, opset=23), case("Attention", *HEADS, opset=24, scale=0.5, softcap=2.0),
    case("Attention", *FLAT, opset=23, q_num_heads=4, kv_num_heads=2),
    case("Attention", *FLAT, stored(2, 4, 3, 5), opset=23, q_num_heads=4, kv_num_heads=2),
    case("Attention", (2, 4, 3, 2), (2, 4, 5, 2), (2, 4, 5, 2), (4, 3, 5), opset=23),
    case("Attention", *HEADS, plain(3, 5), opset=23, outputs=4),
    case("Attention", *HEADS, None, *PAST, opset=23, outputs=3),
    case("Attention", *HEADS, None, plain(2, 2, 4, 2), plain(2, 2, 4, 3), opset=23, outputs=3),
    case("Attention", (2, 2, 5, 3), (2, 2, 5, 3), (2, 2, 5, 3), opset=23, is_causal=1),
    case("Attention", *HEADS, opset=25, left_window_size=1, right_window_size=1),
    case("Attention", *HEADS, opset=25, right_window_size=0),
    case("Attention", (1, 3, 8), (1, 5, 8), (1, 5, 8), opset=23, q_num_heads=1, kv_num_heads=1),
    case("Attention", (2, 3, 4), (2, 5, 4), stored(2, 5, 6), opset=23, q_num_heads=2, kv_num_heads=2),
    microsoft("Attention", (2, 3, 7), stored(7, 24), stored(24), num_heads=2),
    microsoft("Attention", (2, 3, 7), stored(7, 24), stored(24), num_heads=2, qkv_hidden_sizes=[8, 8, 8]),
    microsoft("Attention", (2, 5, 7), stored(7, 18), stored(18), SEEN, None, (2, 3, 5, 5), num_heads=3),
    microsoft("Attention", (2, 5, 7), stored(7, 18), stored(18), np.asarray([3, 5], np.int32), num_heads=3),
    microsoft("Attention", (2, 3, 7), (7, 12), (12,), num_heads=2, unidirectional=1, scale=0.3),
    microsoft("Attention", (2, 3, 7), stored(7, 12), stored(12), None, plain(2, 2, 2, 4, 2), num_heads=2,
              outputs=2),
    microsoft("Attention", (2, 3, 7), stored(7, 16), stored(16), num_heads=2, qkv_hidden_sizes=[4, 4, 8],
              whole=True),
    microsoft("MultiHeadAttention", (2, 3, 6), (2, 5, 6), (2, 5, 8), num_heads=2),
    microsoft("MultiHeadAttention", (2, 3, 6), (2, 5, 6), (2, 5, 6), stored(18), num_heads=2),
    microsoft("MultiHeadAttention", (2, 3, 6), (2, 5, 6), (2, 5, 6), stored(18), SEEN, (1, 3, 3, 5),
              num_heads=3),
    microsoft("MultiHeadAttention", (2, 5, 6), (2, 5, 6), (2, 5, 6), None, np.asarray([3, 5], np.int32),
              num_heads=3, unidirectional=1),
    microsoft("MultiHeadAttention", (2, 3, 6), (2, 2, 5, 3), (2, 2, 5, 3), num_heads=2),
    microsoft("MultiHeadAttention", (2, 3, 6), (2, 3, 6), (2, 3, 6), None, None, None, (2, 2, 4, 3),
              (2, 2, 4, 3), num_heads=2, outputs=3),
    microsoft("GroupQueryAttention", (1, 3, 64), (1, 3, 32), (1, 3, 32), None, None,
              np.asarray([2], np.int32), scalar(3, np.int32), num_heads=4, kv_num_heads=2),
    microsoft("GroupQueryAttention", (1, 3, 128), (1, 3, 64), (1, 3, 64), None, None,
              np.asarray([2], np.int32), scalar(3, np.int32), stored(9, 16), stored(9, 16), num_heads=4,
              kv_num_heads=2, do_rotary=1),
    microsoft("GroupQueryAttention", (1, 1, 64), (1, 1, 32), (1, 1, 32), (1, 2, 4, 16), (1, 2, 4, 16),
              np.asarray([4], np.int32), scalar(5, np.int32), num_heads=4, kv_num_heads=2, outputs=3),
    microsoft("GroupQueryAttention", (1, 3, 64), None, None, None, None, np.asarray([2], np.int32),
              scalar(3, np.int32), num_heads=4, kv_num_heads=2, whole=True),
    case("RotaryEmbedding", (2, 3, 8), stored(9, 2), stored(9, 2), PLACES, opset=23, num_heads=2),
    case("RotaryEmbedding", (2, 3, 3, 6), (2, 3, 3), (2, 3, 3), opset=23),
    case("RotaryEmbedding", (2, 2, 3, 8), stored(2, 3, 4), stored(2, 3, 4), opset=23, interleaved=1),
    case("RotaryEmbedding", (2, 2, 3, 8), stored(2, 3, 2), stored(2, 3, 2), opset=23, rotary_embedding_dim=4),
    microsoft("RotaryEmbedding", (2, 3, 8), PLACES, stored(9, 2), stored(9, 2)),
    microsoft("RotaryEmbedding", (2, 2, 3, 8), SHIFTED, stored(9, 4), stored(9, 4)),
    microsoft("RotaryEmbedding", (2, 3, 16), PLACES, stored(9, 2), stored(9, 2), num_heads=2,
              rotary_embedding_dim=4),
)  # fmt: skip
FUSED: Sequence[OperatorCase] = (
    microsoft("Gelu", (2, 3, 5)), microsoft("QuickGelu", (2, 5), alpha=1.5),
    microsoft("BiasGelu", (2, 3, 5), stored(5)), microsoft("BiasGelu", (3, 5), (5,)),
    microsoft("FastGelu", (2, 5)), microsoft("FastGelu", (2, 5), stored(5)),
    microsoft("SkipLayerNormalization", (2, 3, 6), (2, 3, 6), stored(6), stored(6), stored(6), outputs=4),
    microsoft("SkipLayerNormalization", (2, 3, 6), stored(3, 6), stored(6)),
    microsoft("SkipSimplifiedLayerNormalization", (2, 3, 6), (2, 3, 6), stored(6), stored(6), epsilon=1e-3),
    microsoft("EmbedLayerNormalization", plain(2, 3, dtype="int32"), plain(2, 3, dtype="int32"),
              stored(4, 6), stored(5, 6), stored(4, 6), stored(6), stored(6), outputs=2),
    microsoft("EmbedLayerNormalization", plain(2, 3, dtype="int32"), None, stored(4, 6), stored(5, 6), None,
              stored(6), stored(6), np.ones((2, 3), np.int32), PLACES.astype(np.int32), outputs=3),
    microsoft("FusedConv", (1, 4, 5), stored(6, 4, 3), stored(6), activation="Relu"),
    microsoft("FusedConv", (1, 4, 5, 5), stored(6, 2, 1, 1), None, (1, 6, 5, 5), group=2, activation="Tanh"),
    microsoft("FusedGemm", (3, 4), stored(5, 4), stored(5), transB=1, activation="Relu"),
    microsoft("FusedMatMul", (2, 4, 3), stored(5, 4), transA=1, transB=1, alpha=0.5),
    microsoft("FusedMatMul", (2, 3, 4), (2, 5, 4), transB=1), microsoft("FusedMatMul", (3, 4), (4,)),
    microsoft("FusedMatMul", (3, 2, 4), stored(2, 4, 5), transBatchA=1, whole=True),
)  # fmt: skip
RATES, GATES_BY_HEAD = {"q_num_heads": 4, "kv_num_heads": 2}, (1, 3, 2)
LINEAR = (1, 3, 8), (1, 3, 4), (1, 3, 6)
STATES: Sequence[OperatorCase] = (
    microsoft("CausalConvWithState", (2, 5, 4), stored(5, 1, 3), stored(5), outputs=2),
    microsoft("CausalConvWithState", (1, 5, 4), (5, 1, 3), None, (1, 5, 2), outputs=2, activation="silu"),
    microsoft("CausalConvWithState", (2, 5, 4), stored(5, 1, 2), stored(5), plain(2, 5, 1), outputs=2,
              whole=True),
    microsoft("LinearAttention", *LINEAR, outputs=2, update_rule="linear", **RATES),
    microsoft("LinearAttention", *LINEAR, None, (1, 3, 4), outputs=2, update_rule="gated", scale=0.5,
              **RATES),
    microsoft("LinearAttention", *LINEAR, (1, 2, 2, 3), None, GATES_BY_HEAD, outputs=2, update_rule="delta",
              **RATES),
    microsoft("LinearAttention", *LINEAR, None, GATES_BY_HEAD, stored(1, 3, 1) / 4, outputs=2, **RATES),
    microsoft("LinearAttention", *LINEAR, None, GATES_BY_HEAD, outputs=2, update_rule="gated", **RATES),
    case("TensorScatter", (2, 6, 4), (2, 3, 4), np.asarray([0, 2]), opset=24, axis=1),
    case("TensorScatter", plain(1, 3, 6, 4), (1, 3, 1, 4), opset=24, mode="circular", whole=True),
    microsoft("MoE", (3, 8), (3, 4), stored(4, 16, 8), stored(4, 16), stored(4, 8, 16), stored(4, 8), k=2,
              activation_type="relu"),
    microsoft("MoE", (2, 3, 8), plain(6, 4), stored(4, 12, 8), None, stored(4, 8, 12),
              activation_type="silu"),
)  # fmt: skip
U8, I8 = np.uint8, np.int8
ONE = (scalar(0.5), scalar(3, U8))  # scale and zero point of a tensor
SIGNED = (scalar(0.25), scalar(-2, I8))
ACCURATE = (scalar(0.02), scalar(100, U8))
SUMMED = (scalar(8.0), scalar(90, U8))  # what a sum of products fits into: saturated codes hide what is wrong
BELOW = (scalar(8.0), scalar(220, U8))
SHARE = (scalar(1 / 256), scalar(0, U8))
QUARTER = (scalar(0.25), scalar(90, U8))
TENTH = (scalar(0.1), scalar(100, U8))
QUANTISED: Sequence[OperatorCase] = (
    *(case("QuantizeLinear", (2, 4, 3), *ACCURATE, opset=o) for o in (10, 13, 19, 21, 23)),
    case("QuantizeLinear", (2, 4, 3), scalar(0.02)),
    case("QuantizeLinear", (2, 4, 3), stored(4) / 60, codes(4, dtype=U8)),
    case("QuantizeLinear", (2, 4, 3), stored(3) / 60, axis=-1),
    case("QuantizeLinear", (2, 4), stored(1) / 60, codes(1)),
    case("QuantizeLinear", (4, 6), stored(2, 6) / 60, codes(2, 6), opset=21, axis=0, block_size=2),
    case("QuantizeLinear", stored(3, 4), stored(4) / 60, codes(4)),
    *(case("DequantizeLinear", bytes_(2, 4, 3), *ONE, opset=o) for o in (10, 13, 19, 21, 23)),
    case("DequantizeLinear", ints(2, 4, 3, dtype="int8"), stored(4), codes(4)),
    case("DequantizeLinear", ints(4, 6, dtype="int32"), scalar(0.5)),
    case("DequantizeLinear", codes(4, 6), stored(4), codes(4), axis=0),
    case("DequantizeLinear", codes(4, 6), stored(6), axis=1),
    case("DequantizeLinear", codes(4, 6), scalar(0.5)),
    case("DequantizeLinear", codes(5), stored(5), axis=0),
    case("DequantizeLinear", codes(5), scalar(2.0), opset=10),
    case("DequantizeLinear", codes(4, 6), stored(4, 3), codes(4, 3), opset=21, axis=1, block_size=2),
    case("DequantizeLinear", codes(6, 4), stored(2, 4), opset=23, axis=0, block_size=3),
    case("DequantizeLinear", codes(4, 6), stored(4, 1), opset=21, axis=1, block_size=6),
    case("DequantizeLinear", codes(4, 6), stored(4, 6), opset=21, axis=1, block_size=1),
    case("DequantizeLinear", codes(4, 5), stored(4, 3), opset=21, axis=1, block_size=2, whole=True),
    *(case("DequantizeLinear", codes(4, 6, dtype=t), stored(4), opset=21, axis=0) for t in (INT4, UINT4)),
    case("DequantizeLinear", codes(4, 6, dtype=FLOAT8), stored(4), opset=19, axis=0),
    case("DynamicQuantizeLinear", (3, 5), opset=11, outputs=3),
    case("DynamicQuantizeLinear", (1, 4, 3), outputs=3),
    case("QLinearConv", bytes_(1, 4, 5), *ONE, codes(6, 4, 3), *SIGNED, *SUMMED),
    case("QLinearConv", bytes_(1, 4, 5), *ONE, codes(6, 4, 1), stored(6), codes(6) * 0, *BELOW, codes(6,
         dtype=np.int32)),
    case("QLinearConv", bytes_(1, 4, 5, 5), *ONE, codes(6, 2, 3, 3, dtype=U8), *ONE, *SUMMED, group=2),
    case("QLinearConv", bytes_(1, 6, 4, 4), *ONE, codes(6, 1, 3, 3), stored(6), codes(6) * 0, *BELOW,
         group=6),
    case("ConvInteger", bytes_(1, 4, 5), codes(6, 4, 3, dtype=U8), scalar(3, U8), scalar(2, U8)),
    case("ConvInteger", bytes_(1, 4, 5), codes(6, 4, 1, dtype=U8)),
    case("ConvInteger", bytes_(2, 4, 5), codes(6, 2, 3), scalar(3, U8), group=2),
    case("QLinearMatMul", bytes_(3, 4), *ONE, codes(4, 5), *SIGNED, *SUMMED),
    case("QLinearMatMul", bytes_(2, 3, 4), *ONE, codes(4, 5), stored(5), codes(5), *SUMMED),
    case("QLinearMatMul", bytes_(2, 3, 4), *ACCURATE, bytes_(2, 4, 5), *ACCURATE, *QUARTER),
    case("MatMulInteger", bytes_(3, 4), codes(4, 5)),
    case("MatMulInteger", bytes_(2, 3, 4), codes(4, 5), scalar(3, U8), codes(5)),
    case("MatMulInteger", bytes_(3, 4), bytes_(4, 5), scalar(3, U8), scalar(1, U8)),
    microsoft("QuantizeLinear", (2, 4, 3), *ACCURATE), microsoft("DequantizeLinear", bytes_(2, 4, 3), *ONE),
    microsoft("QLinearAdd", bytes_(2, 4, 3), *ONE, bytes_(2, 4, 3), *ONE, scalar(1.0), scalar(3, U8)),
    microsoft("QLinearAdd", bytes_(2, 4, 3), *ONE, codes(4, 1, dtype=U8), *ONE, scalar(1.0), scalar(3, U8)),
    microsoft("QLinearMul", bytes_(2, 4, 3), *ACCURATE, bytes_(2, 4, 3), *ACCURATE, *TENTH),
    microsoft("QLinearMul", bytes_(2, 4, 3), *ACCURATE, codes(4, 1, dtype=U8), *ONE, *TENTH),
    microsoft("QLinearSigmoid", bytes_(2, 4), *ACCURATE, *SHARE),
    microsoft("QLinearLeakyRelu", bytes_(2, 4), *ACCURATE, *ACCURATE),
    microsoft("QLinearSoftmax", bytes_(2, 4, 3), *ACCURATE, *SHARE, axis=1, opset=9),
    microsoft("QLinearSoftmax", bytes_(2, 4, 3), *ACCURATE, *SHARE, axis=-1, opset=13),
    microsoft("QLinearGlobalAveragePool", bytes_(2, 4, 3, 3), *ONE, *ONE, channels_last=0),
    microsoft("QLinearAveragePool", bytes_(2, 4, 5, 5), *ONE, *ONE, kernel_shape=[2, 2]),
    microsoft("QLinearConcat", *ONE, bytes_(2, 3), *ONE, bytes_(2, 4), *ONE, axis=1),
    microsoft("QLinearWhere", bools(2, 4), bytes_(2, 4), *ONE, bytes_(2, 4), *ONE, *ONE),
    microsoft("QGemm", bytes_(3, 4), *ONE, codes(4, 5), *SIGNED, codes(5, dtype=np.int32), *SUMMED),
    microsoft("QGemm", bytes_(3, 4), *ONE, codes(5, 4), stored(5), codes(5) * 0, transB=1),
    microsoft("DynamicQuantizeMatMul", (3, 4), codes(4, 5), stored(5), codes(5)),
    microsoft("DynamicQuantizeMatMul", (2, 3, 4), codes(4, 5), scalar(0.5), scalar(1, I8), stored(5)),
    microsoft("MatMulIntegerToFloat", bytes_(3, 4), codes(4, 5), scalar(0.5), stored(5), scalar(2, U8),
         codes(5)),
    microsoft("MatMulIntegerToFloat", bytes_(2, 3, 4), codes(4, 5), scalar(0.5), scalar(0.5), None, None,
         stored(5)),
    microsoft("MatMulNBits", (3, 32), codes(6, 2, 8, dtype=U8, step=7), stored(12), K=32, N=6, bits=4,
         block_size=16),
    microsoft("MatMulNBits", (3, 32), codes(6, 2, 8, dtype=U8, step=7), stored(6, 2), codes(6, 1, dtype=U8),
              K=32, N=6, bits=4, block_size=16),
    microsoft("GatherBlockQuantized", codes(4, 32, dtype=UINT4), ints(5), stored(4, 2), whole=True,
         block_size=16),
)  # fmt: skip
CASES = (
    *ELEMENTWISE,
    *NORMS,
    *CONTRACTIONS,
    *LAYOUT,
    *SELECTION,
    *INDEXING,
    *REDUCTIONS,
    *SAMPLING,
    *TRANSFORMS,
    *RECURRENT,
    *ATTENTION,
    *FUSED,
    *STATES,
    *QUANTISED,
)
CODES = {"uint8": (0.0, 250.0), "int8": (-120.0, 120.0)}
RANGES = {
    "Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.1, 3.0), "Log": (0.2, 3.0),
    "Sqrt": (0.1, 3.0), "Pow": (0.5, 2.0), "Div": (0.3, 2.0), "Mod": (0.5, 4.0), "ReduceLogSum": (0.2, 2.0),
    "Reciprocal": (0.3, 2.0), "BitShift": (0.0, 6.0), "Gather": (0.0, 3.9),
}  # fmt: skip
