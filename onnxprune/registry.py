"""Named things that can be added from outside: criteria, repairs, targets, metrics, sections of pages.

A registry knows its kind and where its entries live, not what they do. It imports its home modules, and those
that installed distributions name as entry points, when somebody first asks for a name: so the command line
and the settings can check names without loading anything heavy. Operators have a table of their own, in
`onnxprune.rules`, since they are found by domain and version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from onnxprune.errors import OnnxPruneError, UsageError, nearest

OURS = "onnxprune"


class Named(Protocol):
    """What an entry must say of itself."""

    @property
    def name(self) -> str:
        """Return the word that settings and the command line use."""

    @property
    def summary(self) -> str:
        """Return one line for help texts and tables."""


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """Entries of one kind by name, in the order in which they are registered; twice is refused.

    kind: what messages call an entry; home: our modules that register entries; group: the entry-point group
    of other packages.
    """

    def __init__(self, kind: str, home: tuple[str, ...], group: str) -> None:
        self.kind, self.home, self.group = kind, home, group
        self._entries: dict[str, Entry] = {}
        self._origins: dict[str, str] = {}
        self._origin = OURS
        self._loaded = self._loading = False

    def add(self, entry: Entry) -> Entry:
        """Register an entry.

        Raises OnnxPruneError where the name is taken.
        """
        if entry.name in self._entries:
            raise OnnxPruneError(f"{self.kind} '{entry.name}' is registered already: choose another name")
        self._entries[entry.name] = entry
        self._origins[entry.name] = self._origin
        return entry

    def names(self) -> tuple[str, ...]:
        """Return all names, ours first."""
        self._load()
        return tuple(self._entries)

    def origin(self, name: str) -> str:
        """Return the distribution that an entry comes from."""
        self._load()
        return self._origins[name]

    def is_ours(self, entry: Entry) -> bool:
        """Tell whether an entry is registered, and by onnxprune itself."""
        name = entry.name
        return name in self and self._entries[name] is entry and self._origins[name] == OURS

    def get(self, name: str) -> Entry:
        """Return an entry by its name.

        Raises UsageError, with the nearest names, for one that nobody registered.
        """
        self._load()
        if name not in self._entries:
            known = f"{', '.join(self._entries)}{nearest(name, self._entries)}"
            raise UsageError(f"unknown {self.kind} '{name}', expected one of {known}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        self._load()
        return iter(tuple(self._entries.values()))

    def _load(self) -> None:
        if self._loaded or self._loading:
            return
        self._loading = True
        try:
            with self._adding(OURS):
                for module in self.home:
                    import_module(module)
            load_entry_points(self.group, self._adding)
        finally:
            self._loading = False
        self._loaded = True

    @contextmanager
    def _adding(self, origin: str) -> Iterator[None]:
        """Note where entries come from that are registered meanwhile; after an error there are none."""
        before = dict(self._entries)
        self._origin = origin
        try:
            yield
        except BaseException:
            self._entries = before
            raise
        finally:
            self._origin = OURS


def load_entry_points(group: str, adding: Callable[[str], AbstractContextManager[None]]) -> None:
    """Import the modules that installed distributions name in an entry-point group; they register things.

    adding: a context for each distribution, by its name. Raises UsageError that names the distribution of a
    module that cannot be imported or registers a name twice: a run that went on without it would do
    something else than yesterday's.
    """
    for entry in sorted(entry_points(group=group), key=lambda e: (e.name, e.value)):
        _load_entry(entry, adding)


def _load_entry(entry: EntryPoint, adding: Callable[[str], AbstractContextManager[None]]) -> None:
    origin = entry.dist.name if entry.dist is not None else entry.value
    what = entry.group.rpartition(".")[2]
    fault = f"the {what} of '{origin}' (entry point '{entry.name} = {entry.value}') cannot be loaded"
    remedy = f"mend it, or 'pip uninstall {origin}'"
    if entry.attr:
        raise UsageError(f"{fault}: got an object of a module, expected the module itself; {remedy}")
    try:
        with adding(origin):
            entry.load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{fault}: {type(error).__name__}: {error}; {remedy}") from error
