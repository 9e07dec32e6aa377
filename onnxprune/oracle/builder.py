"""What the oracle puts into a model: constants, tensors with names that no other has, and nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnxprune.model.patch import Patch


class Builder:
    """Makes nodes and tensors for a patch, and knows the element type of every tensor."""

    def __init__(self, patch: Patch, dtypes: Mapping[str, int], opset: int) -> None:
        self.patch, self.opset = patch, opset
        self._dtypes = dict(dtypes)

    def dtype(self, name: str) -> np.dtype:
        """Return the numpy type of a tensor."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self._dtypes[name]))

    def constant(self, kind: str, values: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self.patch.initializer(self.patch.fresh(f"__oracle_{kind}"), np.asarray(values))
        self._dtypes[name] = int(helper.np_dtype_to_tensor_dtype(values.dtype))
        return name

    def variable(self, kind: str, dtype: np.dtype) -> str:
        """Return the name of a tensor that a node is to make."""
        name = self.patch.fresh(f"__oracle_{kind}")
        self._dtypes[name] = int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
        """Make a node of the standard domain."""
        name = self.patch.fresh(f"__oracle_{op.lower()}_node")
        return helper.make_node(op, inputs, [output], name, **attributes)
