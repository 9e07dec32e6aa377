"""The output folder: who may write to it, where things lie, and how a model gets its final name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from onnxprune.batches.job import PAGE, PLAN
from onnxprune.batches.journal import sync_folder
from onnxprune.errors import UsageError

MODELS, PLANS, PAGES, LOGS = "models", "plans", "pages", "logs"
_SCRATCH, _LOCK, _JOURNAL = ".work", "lock", "journal"
_LONGEST = 240  # bytes of a file's name before its suffix; file systems take 255
_OURS = re.compile(r"(journal|lock)(-\d+-of-\d+)?(\.jsonl)?|\.work")


@dataclass(frozen=True)
class Shard:
    """One of several runs that share the work: number of count, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"-{self.number}-of-{self.count}"


class OutputFolder:
    """An output folder that this run alone may write to, until it is closed."""

    def __init__(self, root: Path, shard: Shard | None = None) -> None:
        """Make the folder and take its lock.

        Raises UsageError for a folder that another run uses, that holds something else, or that cannot be
        written to.
        """
        self.root = root.resolve()
        self._suffix = "" if shard is None else str(shard)
        self._held = ExitStack()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _check_ours(root)
            self._take(_LOCK, fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH)
            if shard is not None:
                self._take(f"{_LOCK}{self._suffix}", fcntl.LOCK_EX)
            self.scratch = self.root / _SCRATCH / self._suffix[1:]  # the whole run's holds those of shards
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)
        except OSError as error:
            self._held.close()
            raise UsageError(
                f"output folder '{root}': {error.strerror or error}; choose another one"
            ) from error
        except BaseException:
            self._held.close()
            raise

    def _take(self, name: str, kind: int) -> None:
        """Lock a file. The kernel drops the lock when this process ends, however it ends."""
        handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._held.callback(os.close, handle)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"output folder '{self.root}' is in use by another run; wait for it or choose another folder"
            ) from None

    def close(self) -> None:
        """Remove the scratch folder and give the lock back."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(OSError):  # another shard may be at work in it
            (self.root / _SCRATCH).rmdir()
        self._held.close()

    @property
    def journal(self) -> Path:
        """Return the journal of this run."""
        return self.root / f"{_JOURNAL}{self._suffix}.jsonl"

    def journals(self) -> list[Path]:
        """Return all journals, of whole runs and of shards."""
        return sorted(p for p in self.root.glob(f"{_JOURNAL}*.jsonl") if _OURS.fullmatch(p.name))

    def reports(self) -> Path:
        """Make and return the folder of this run's reports; a shard has one of its own."""
        path = self.root / f"shard{self._suffix}" if self._suffix else self.root
        path.mkdir(exist_ok=True)
        return path

    def log(self, name: str) -> str:
        """Return the path of a model's log, relative to the folder."""
        return f"{LOGS}/{_fitting(name)}.log"

    def prepare(self, name: str, files: Iterable[str]) -> None:
        """Make a model's folders, and remove its files of an earlier run. Raises OSError."""
        for file in files:
            (self.root / file).unlink(missing_ok=True)
        for part in (f"{MODELS}/{name}", _plan(name), _page(name), self.log(name)):
            (self.root / part).parent.mkdir(parents=True, exist_ok=True)

    def fresh(self) -> Path:
        """Make a folder for one attempt. Raises OSError."""
        path = self.scratch / secrets.token_hex(8)
        path.mkdir()
        return path

    def publish(self, source: Path, places: Mapping[str, str]) -> None:
        """Give files their final names, the model last, and wait until these are on the disk.

        places: by name in `source` the place relative to this folder. Raises OSError.
        """
        for name, place in places.items():
            os.replace(source / name, self.root / place)
        for folder in {(self.root / place).parent for place in places.values()}:
            sync_folder(folder)


def places(name: str, written: Collection[str]) -> dict[str, str]:
    """Return where the files of a model go: its plan, its page, external data, and the model last."""
    folder, _, last = name.rpartition("/")
    beside = f"{MODELS}/{folder}/" if folder else f"{MODELS}/"
    found = {part: at(name) for part, at in ((PLAN, _plan), (PAGE, _page)) if part in written}
    found |= {other: beside + other for other in sorted(written) if other not in (PLAN, PAGE, last)}
    return found | ({last: beside + last} if last in written else {})


def _plan(name: str) -> str:
    return f"{PLANS}/{_fitting(name)}.json"


def _page(name: str) -> str:
    return f"{PAGES}/{_fitting(name)}.html"


def _fitting(name: str) -> str:
    """Shorten a last part to which no suffix can be added; its hash keeps it unique."""
    folder, slash, last = name.rpartition("/")
    data = os.fsencode(last)
    if len(data) <= _LONGEST:
        return name
    mark = hashlib.sha256(data).hexdigest()[:12]
    return f"{folder}{slash}{os.fsdecode(data[: _LONGEST - 13])}-{mark}"


def _check_ours(root: Path) -> None:
    """Refuse a folder with other things in it: `models/` may be somebody's originals."""
    names = os.listdir(root)
    if names and not any(name.startswith(_JOURNAL) for name in names):
        strange = [name for name in sorted(names) if not _OURS.fullmatch(name)]
        if strange:
            raise UsageError(
                f"output folder '{root}' holds '{strange[0]}' and no journal of a batch; "
                "give a new or empty folder"
            )
