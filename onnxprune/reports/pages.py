"""Templates become pages: every text is escaped, and control characters and marks of direction are shown."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.etree import ElementTree as Tree

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from onnxprune.errors import printable
from onnxprune.quantities import count, share, size
from onnxprune.reports.chart import template
from onnxprune.reports.quality import decimal, metric_value
from onnxprune.reports.wording import milliseconds, number

MACROS = ("badge", "bar", "facts", "folded", "legend", "measured", "section", "table", "th")


def page(name: str, given: Mapping[str, Any]) -> bytes:
    """Fill a template; the result is one file that needs no network."""
    text = _environment().get_template(name).render(given)
    return text.encode()


def filled(text: str, context: Mapping[str, Any]) -> Markup:
    """Fill a template given as text, with the macros of `parts.html` at hand."""
    return Markup(_compiled(text).render(context).strip())  # its texts are escaped as it is filled


@cache
def _compiled(text: str) -> Template:
    return _environment().from_string(f'{{% from "parts.html" import {", ".join(MACROS)} %}}{text}')


def inline(svg: Tree.Element) -> Markup:
    """Return a picture as a part of a page."""
    return Markup(Tree.tostring(svg, encoding="unicode"))  # the serialiser escapes


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("onnxprune.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    made.filters |= {
        "count": count, "size": size, "ms": milliseconds, "metric_of": metric_value,
        "decimal": decimal, "breakable": breakable, "inline": inline,
    }  # fmt: skip
    style = Markup(template("style.css") + template("chart.css"))
    script = Markup(template("script.js"))
    made.globals |= {
        "style": style, "script": script, "script_hash": _hash(script), "share": share, "number": number,
    }  # fmt: skip
    return made


def breakable(text: str) -> Markup:
    """Let a long name break behind its separators."""
    parts = re.split(r"(?<=[/_.:])(?=[^/_.:])", printable(text))
    return Markup("<wbr>").join(parts)


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(script: str) -> str:
    """Name a script as a content security policy does."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
