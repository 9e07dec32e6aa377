"""Files other than models: written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from onnxprune.errors import ResourceError, UsageError
from onnxprune.model.save import check_output


def check_file(path: Path, others: Iterable[Path | None], force: bool) -> None:
    """Refuse a file that could not be written, before any long work.

    others: files of the same run. Raises UsageError.
    """
    for other in others:
        if other is not None and path.resolve() == other.resolve():
            raise UsageError(f"'{path}' is named for two files; choose another name for one of them")
    check_output(path, None, force)


def write_file(path: Path, data: bytes) -> None:
    """Write a file through a temporary one in the same folder.

    Raises UsageError where that is not possible, ResourceError when the disk is full.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kind = ResourceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(f"writing '{path}': {error.strerror or error}; choose another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
