"""Paths that others chose: their files are opened here, and whatever is wrong with one is an OSError."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

LONGEST_NAME = 255  # bytes; what file systems take


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file system takes. Raises OSError."""
    text = os.fspath(path)
    if "\0" in text:
        raise OSError(errno.EINVAL, "its name holds a NUL character")
    try:
        longest = max((len(os.fsencode(part)) for part in text.split(os.sep)), default=0)
    except UnicodeEncodeError:
        raise OSError(errno.EINVAL, "its name is no text that can be encoded") from None
    if longest > LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, f"its name has {longest} bytes, {LONGEST_NAME} are possible")


def resolved(path: Path) -> Path:
    """Return an absolute path without links. Raises OSError, also for links that run in a circle."""
    check_path(path)
    try:
        return path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, "its links run in a circle") from None


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file to be read; a pipe or a device could keep a run waiting for ever.

    Raises OSError, whose `strerror` says what is wrong in words.
    """
    check_path(path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is no regular file (a pipe or a device)")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a regular file. Raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()
