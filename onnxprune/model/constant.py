"""A constant where it stands in a model: read, overwritten and exchanged in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.tensors import copy_header, is_external, volume


@dataclass(frozen=True, eq=False)
class Constant:
    """An initializer or the value of a Constant node, dense or sparse.

    home: its graph, or the attribute of its node; proto: what holds the values.
    """

    name: str
    home: onnx.GraphProto | onnx.AttributeProto
    proto: TensorProto | onnx.SparseTensorProto
    in_function: bool = False

    @property
    def is_sparse(self) -> bool:
        """Tell whether the values are stored in sparse form."""
        return isinstance(self.proto, onnx.SparseTensorProto)

    @property
    def tensor(self) -> TensorProto:
        """Return the tensor that carries type and bytes."""
        return self.proto.values if isinstance(self.proto, onnx.SparseTensorProto) else self.proto

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the dense shape."""
        return tuple(self.proto.dims)

    @property
    def size(self) -> int:
        """Return the number of elements, dense."""
        return volume(self.shape)

    def load(self) -> np.ndarray:
        """Load the dense values. Raises ModelError where they are in a file that was not loaded."""
        if is_external(self.tensor):
            raise ModelError(f"tensor {self.name}: its external data is not loaded; load it with the model")
        return loaded(self.proto)

    def store(self, array: np.ndarray) -> None:
        """Replace the values; name, type and the form, dense or sparse, stay."""
        if isinstance(self.proto, onnx.SparseTensorProto):
            self.proto.CopyFrom(sparse(array, self.proto))
            return
        bare = TensorProto()
        copy_header(self.proto, bare)
        self.proto.CopyFrom(bare)
        self.proto.raw_data = numpy_helper.from_array(array).raw_data

    def as_sparse(self) -> onnx.SparseTensorProto:
        """Return the values in COO form with linear int64 indices (ONNX IR, SparseTensorProto)."""
        return sparse(self.load(), onnx.SparseTensorProto(values=TensorProto(name=self.name)))

    def exchange(self, form: onnx.SparseTensorProto) -> int:
        """Put a sparse form in the place of the dense one; return where that stood."""
        if isinstance(self.home, onnx.AttributeProto):
            self.home.CopyFrom(helper.make_attribute("sparse_value", form))
            return 0
        place = [t.name for t in self.home.initializer].index(self.name)
        del self.home.initializer[place]
        self.home.sparse_initializer.append(form)
        return place

    def restore(self, place: int) -> None:
        """Put the dense form back; the last one exchanged is the first to be restored."""
        if isinstance(self.home, onnx.AttributeProto):
            self.home.CopyFrom(helper.make_attribute("value", self.proto))
        else:
            self.home.initializer.insert(place, self.proto)
            del self.home.sparse_initializer[-1]


@dataclass(frozen=True, eq=False)
class CodedConstant(Constant):
    """A constant of codes, read as the real numbers (code - zero) scale that they stand for.

    zero, scale: of every element, in the dense shape. Where a number becomes 0 its code becomes the zero
    point; other codes stay.
    """

    zero: np.ndarray = field(default_factory=lambda: np.zeros(()))
    scale: np.ndarray = field(default_factory=lambda: np.ones(()))

    def load(self) -> np.ndarray:
        """Load the real numbers in float32. Raises ModelError where the codes are in a file not loaded."""
        codes = super().load().astype(np.float32)
        return np.asarray((codes - self.zero.astype(np.float32)) * self.scale.astype(np.float32))

    def store(self, array: np.ndarray) -> None:
        """Set the codes of numbers that are 0 to the zero point."""
        codes = super().load()
        super().store(np.where(array == 0, self.zero.astype(codes.dtype), codes))

    def as_sparse(self) -> onnx.SparseTensorProto:
        """Return the codes in COO form: what is not listed is code 0, whatever the zero point."""
        return sparse(super().load(), onnx.SparseTensorProto(values=TensorProto(name=self.name)))


def loaded(proto: TensorProto | onnx.SparseTensorProto) -> np.ndarray:
    """Read a tensor, whether it is stored as dense or as sparse."""
    return dense(proto) if isinstance(proto, onnx.SparseTensorProto) else numpy_helper.to_array(proto)


def dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """Read a sparse tensor into a dense array."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    result = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:
        result[tuple(indices.T)] = values
    else:
        result.reshape(-1)[indices] = values
    return result


def sparse(array: np.ndarray, like: onnx.SparseTensorProto) -> onnx.SparseTensorProto:
    """Write a dense array as a sparse tensor with the index layout and name of another."""
    result = onnx.SparseTensorProto(dims=array.shape)
    pairs = len(like.indices.dims) == 2
    indices: np.ndarray = np.argwhere(array != 0) if pairs else np.flatnonzero(array != 0)
    values = array[tuple(indices.T)] if pairs else array.reshape(-1)[indices]
    result.values.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), like.values.name))
    result.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), like.indices.name))
    return result
