"""Loading models: files, bytes and protos that cannot be used are refused in one line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from onnxprune.errors import ModelError
from onnxprune.model import check, source
from onnxprune.model.modern import modern


@dataclass(frozen=True)
class Loaded:
    """A model in memory, its external data included.

    `nbytes` and `sha256` cover the model as it was given plus its external data; both are computed
    when first asked for. `warnings` are findings that do not make the model unusable.
    """

    model: onnx.ModelProto
    path: Path | None
    warnings: tuple[str, ...]
    _source: source.Source = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the file plus its external data."""
        return self._source.nbytes()

    @cached_property
    def sha256(self) -> str:
        """Hash of the serialised model followed by the external bytes in initializer order."""
        return self._source.sha256()


def load(given: str | os.PathLike[str] | bytes | onnx.ModelProto, check_weights: check.WeightCheck) -> Loaded:
    """Read a model from a path, from bytes or from a ModelProto, which is not changed.

    check_weights: whether its weights fit, which the rules of operators know. Raises ModelError for a
    file or model that cannot be used.
    """
    read = source.read(given)
    try:
        model, said = modern(read.model)
        warnings = check.check(model, check_weights)
    except ModelError as error:
        raise ModelError(f"'{read.path}': {error}" if read.path else str(error)) from error
    return Loaded(model, read.path, (*said, *warnings), read)
