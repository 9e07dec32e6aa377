"""Temporary files beside outputs: locked while their writer lives, swept once it is dead, placed together."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from onnxprune.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, where files of a dead writer stay
    fcntl = None  # type: ignore[assignment]

_LONGEST = 100  # bytes of the output's name in that of a temporary file
_CHUNK = 1 << 24
_OURS = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.tmp", re.DOTALL)


class Temporary:
    """A file that becomes an output as a whole, or goes away. While it is open nobody sweeps it.

    force: whether it may replace what has the output's name. placed: whether it has become the output.
    """

    def __init__(self, target: Path, force: bool) -> None:
        """Create it in the folder of its output. Raises OSError."""
        self.target, self.force, self.placed = target, force, False
        self.path, self._handle = _created(target)

    def __enter__(self) -> Temporary:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, and remove what has not become an output."""
        if os.name == "nt":
            self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def write(self, chunks: Iterable[bytes]) -> None:
        """Write all of it to the disk. Raises OSError."""
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._handle, view[:_CHUNK]) :]
        os.fsync(self._handle)

    def place(self) -> None:
        """Give it the name of its output; without force only where nothing has this name. Raises OSError."""
        if os.name == "nt":
            self._close()
        if self.force or not self._linked():
            os.replace(self.path, self.target)
        self.placed = True

    def _linked(self) -> bool:
        """Link it to the name of its output; tell whether the file system can. Raises FileExistsError."""
        try:
            os.link(self.path, self.target)
        except FileExistsError:
            raise
        except OSError:
            if os.path.lexists(self.target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            return False
        return True


def place_all(files: Sequence[Temporary]) -> None:
    """Give files the names of their outputs: all of them, or none where there was nothing before.

    Runs that write to the folder of the first take turns. Raises UsageError where another run has made an
    output in the meantime, OSError.
    """
    if not files:
        return
    with _turn(files[0].target.parent), ExitStack() as undone:
        for file in files:
            there = os.path.lexists(file.target)
            try:
                file.place()
            except FileExistsError:
                raise UsageError(
                    f"output '{file.target}' was made by another run in the meantime and is left as it is; "
                    "choose another name or pass --force"
                ) from None
            if not there:
                undone.callback(_discard, file.target)
        undone.pop_all()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other run is giving names in a folder."""
    with ExitStack() as held:
        if fcntl is not None:
            with suppress(OSError):  # a folder that cannot be read, a file system without locks
                handle = os.open(folder, os.O_RDONLY)
                held.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _created(target: Path) -> tuple[Path, int]:
    """Create and lock a file. One that a sweep took between these two steps is left for another."""
    while True:
        path = target.with_name(f".{_short(target.name)}.{secrets.token_hex(6)}.tmp")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return path, handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        except OSError:  # a file system without locks, on which nothing is swept
            return path, handle
        if os.fstat(handle).st_nlink:
            return path, handle
        os.close(handle)


def _short(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode(errors="ignore")


def sweep(target: Path) -> None:
    """Remove the temporary files for an output, its external data included, whose writers are dead."""
    if fcntl is None:
        return
    data = re.compile(re.escape(target.stem) + r"-[0-9a-f]{12}\.data")
    with suppress(OSError):
        for path in target.parent.iterdir():
            found = _OURS.fullmatch(path.name)
            if found is None or not (found["name"] == _short(target.name) or data.match(found["name"])):
                continue
            if _abandoned(path):
                path.unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    """Tell whether nobody holds the file: the kernel drops a lock however its process ends."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
