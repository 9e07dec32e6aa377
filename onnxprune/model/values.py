"""Values of graph constants that are read from the source model and never written to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxprune.model.constant import dense
from onnxprune.model.tensors import raw_size


class SharedValues(LazyValues):
    """Values of a TensorProto that belongs to somebody else.

    onnx-graphsurgeon's exporter writes names into `tensor`, so it is handed a copy.
    """

    def __init__(self, source: onnx.TensorProto) -> None:
        self.source = source
        self.shape = list(source.dims)
        self.dtype = numpy_dtype(source.data_type)
        self.nbytes = raw_size(source)

    @property
    def tensor(self) -> onnx.TensorProto:
        """A copy of the source."""
        copy = onnx.TensorProto()
        copy.CopyFrom(self.source)
        return copy

    def load(self) -> np.ndarray:
        """Read the elements into a new, writable array."""
        return np.array(numpy_helper.to_array(self.source))


class SparseShared(SparseValues):
    """Values of a SparseTensorProto that belongs to somebody else."""

    def __init__(self, source: onnx.SparseTensorProto) -> None:
        self.source = source
        self.shape = list(source.dims)
        self.dtype = numpy_dtype(source.values.data_type)
        self.nbytes = raw_size(source.values)

    @property
    def tensor(self) -> onnx.SparseTensorProto:
        """A copy of the source."""
        copy = onnx.SparseTensorProto()
        copy.CopyFrom(self.source)
        return copy

    def load(self) -> np.ndarray:
        """Read the elements into a new, dense array of the declared type."""
        return dense(self.source)


def numpy_dtype(data_type: int) -> Any:
    """numpy's type for an ONNX element type; the ONNX number itself where numpy has none."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        return data_type
