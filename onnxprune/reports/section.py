"""Sections: the parts of pages, each one object that says when it applies and what its templates need.

A package may add its own: it names a module in the entry-point group `onnxprune.sections`, and that module
calls `SECTIONS.add`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from markupsafe import Markup

from onnxprune.registry import Registry
from onnxprune.reports import sections
from onnxprune.reports.pages import filled

MODEL, BATCH = "model", "batch"  # pages
Given = TypeVar("Given")


@dataclass(frozen=True)
class Section(Generic[Given]):
    """A part of a page, filled from what the page is given: a `Page` of one model, or a `Batch`.

    page: MODEL or BATCH; place: sections follow each other in the order of these, ours in steps of 10.
    context: what the templates need, by name; None where the section does not apply. body: its template, with
    the macros of `templates/parts.html` at hand; about, key: those of the text and the legend beside it.
    tall: text and body one below the other.
    """

    name: str
    summary: str
    page: str
    place: int
    title: str
    context: Callable[[Given], Mapping[str, Any] | None]
    body: str
    about: str = ""
    key: str = ""
    tall: bool = False

    def drawn(self, given: Given) -> Markup | None:
        """Return the section as a part of a page, None where it does not apply."""
        context = self.context(given)
        if context is None:
            return None
        frame = "{% call section(title, about, key, tall) %}" + self.body + "{% endcall %}"
        about, key = (filled(" ".join(text.split()), context) for text in (self.about, self.key))
        return filled(frame, {**context, "title": self.title, "about": about, "key": key, "tall": self.tall})


SECTIONS: Registry[Section[Any]] = Registry(
    "section",
    tuple(f"{sections.__name__}.{module.name}" for module in iter_modules(sections.__path__)),
    "onnxprune.sections",
)


def drawn(page: str, given: object) -> Iterator[Markup]:
    """Yield the sections of a page, in their order."""
    for section in sorted((s for s in SECTIONS if s.page == page), key=lambda s: s.place):
        part = section.drawn(given)
        if part is not None:
            yield part
