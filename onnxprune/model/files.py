"""Files other than models: written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxprune.errors import UsageError
from onnxprune.model.save import check_name, check_output, os_errors
from onnxprune.model.temporary import Temporary, place_all, sweep


def check_file(path: Path, others: Iterable[Path | None], force: bool) -> None:
    """Refuse a file that could not be written, before any long work.

    others: files of the same run. Raises UsageError.
    """
    check_name(path)
    for other in others:
        if other is not None and path.resolve() == other.resolve():
            raise UsageError(f"'{path}' is named for two files; choose another name for one of them")
    check_output(path, None, force)


@contextmanager
def staged_file(path: Path, data: bytes, force: bool) -> Iterator[Temporary]:
    """Write a file, to be given its name by `place_all` while the context lasts; else it goes away.

    Raises UsageError where that is not possible, ResourceError when the disk is full.
    """
    sweep(path)
    with os_errors(path), Temporary(path, force) as temporary:
        temporary.write((data,))
        yield temporary


def write_file(path: Path, data: bytes, force: bool = True) -> None:
    """Write a file through a temporary one in the same folder. Raises as `staged_file`."""
    with staged_file(path, data, force) as temporary:
        place_all((temporary,))
