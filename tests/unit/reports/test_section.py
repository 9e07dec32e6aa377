"""Sections and columns that are added: from a test and from a package, in every place that shows them."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.cli.batch import shown
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.registry import Registry
from onnxprune.reports.batch_page import batch_page
from onnxprune.reports.columns import COLUMNS, Column, Reading, tabled
from onnxprune.reports.compare import compare
from onnxprune.reports.csv import header, table
from onnxprune.reports.model_page import Page, model_page
from onnxprune.reports.outcome import Outcome
from onnxprune.reports.section import BATCH, MODEL, SECTIONS, Section
from onnxprune.reports.writing import write_all
from tests.report_data import HOSTILE, Elements, harmless, record, report, run_of

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = """
from onnxprune.reports.columns import COLUMNS, Column, Reading
from onnxprune.reports.section import MODEL, SECTIONS, Section

SECTIONS.add(Section("acme", "of acme", MODEL, 35, "Acme says", lambda page: {"n": page.report.after.macs},
                     "<p>{{ n|count }} left</p>"))
COLUMNS.add(Column("nodes", "Nodes", "", lambda o: Reading(o.report.source.nodes, "some")))
"""
SHOW = """
import sys
from onnxprune.reports.batch_page import batch_page
from onnxprune.reports.csv import table
from onnxprune.reports.model_page import Page, model_page
from tests.report_data import record, report, run_of
run = run_of(record("a", found=report()))
pages = model_page(Page(report(), {})), batch_page(run), table(run)
sys.stdout.write("=====".join(page.decode() for page in pages))
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    for registry in (COLUMNS, SECTIONS):
        assert isinstance(registry, Registry)
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def titles(page: bytes) -> list[str]:
    return [part.split("</h2>")[0] for part in page.decode().split("<h2>")[1:]]


def layered(outcome: Outcome) -> Reading | None:
    """Count layers; a report without any was not measured."""
    count = len(outcome.report.layers)
    return Reading(count, f"{count} layers") if count else None


@pytest.mark.usefixtures("added")
def test_a_section_stands_at_its_place_on_its_page_and_only_where_it_applies() -> None:
    about, body = "about {{ name }}", "<p class='mine'>{{ name }}</p>"
    SECTIONS.add(
        Section(
            "mine",
            "",
            MODEL,
            15,
            "Mine",
            lambda p: {"name": HOSTILE} if p.plan is None else None,
            body,
            about,
        )
    )
    page = model_page(Page(report(), {}))
    assert titles(page)[:3] == ["Channels kept", "Mine", "Where the work goes"]
    found = harmless(page)
    assert {"class": "mine"} in found.all("p")
    assert "about <script>alert('x')</script>" in found.text  # as text, which was escaped
    assert "\\u202e" in found.text
    assert "Mine" not in titles(batch_page(run_of(record("a", found=report()))))


@pytest.mark.usefixtures("added")
def test_a_section_of_a_batch_reads_its_rows() -> None:
    SECTIONS.add(Section("ids", "", BATCH, 1, "Ids", lambda b: {"rows": b.rows}, "{{ rows|length }} of them"))
    page = batch_page(run_of(record("a", found=report()), record("b", "crashed")))
    assert titles(page)[0] == "Ids"
    assert "2 of them" in Elements(page).text


@pytest.mark.usefixtures("added")
def test_names_are_taken_once() -> None:
    first = next(iter(SECTIONS))
    with pytest.raises(OnnxPruneError, match=f"section '{first.name}' is registered already"):
        SECTIONS.add(first)
    with pytest.raises(UsageError, match=r"unknown column 'latencies'.*latency"):
        COLUMNS.get("latencies")


def test_every_section_says_what_it_is_and_places_are_apart() -> None:
    assert all(section.summary and section.title and section.page in (MODEL, BATCH) for section in SECTIONS)
    places = [(section.page, section.place) for section in SECTIONS]
    assert len(set(places)) == len(places)


@pytest.mark.usefixtures("added")
def test_a_column_that_is_added_is_shown_everywhere(tmp_path: Path) -> None:
    COLUMNS.add(Column("layers", "Layers", "Share by which layers may grow.", layered, limit=0.1))
    more = report().layers * 2
    old, new = (
        run_of(record("a", found=found), record("none", found=report(layers=())))
        for found in (report(), report(layers=more))
    )
    assert header()[-1] == "layers"
    rows = list(csv.DictReader(io.StringIO(table(new).decode(), newline="")))
    assert [row["layers"] for row in rows] == ["2", ""]
    page = batch_page(new).decode()
    assert '<th scope="col" data-sort="number" class="num">Layers</th>' in page
    assert '<td class="num" data-v="2">2 layers</td>' in page
    told = shown(list(new.records), tmp_path, detailed=True)[0]
    assert told.columns[-1].name == "Layers"
    assert [row[-1] for row in told.rows] == ["2 layers", "-"]
    for name, run in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        write_all(run, tmp_path / name)
    paths = [tmp_path / name / "report.json" for name in ("old", "new")]
    found = compare(*paths)
    assert [(f.model, f.what, f.old, f.new, f.change) for f in found.findings if f.verdict == "worse"] == [
        ("a", "layers", "1 layers", "2 layers", 1.0)
    ]
    assert not compare(*paths, {"layers": 1.0}).worse


def test_tables_have_the_columns_in_order_and_the_batch_table_shows_them_with_v_only(tmp_path: Path) -> None:
    assert [column.title for column in tabled()] == [
        "Speed",
        "Drift",
        "Agreement",
        "Metric",
        "MACs",
        "Parameters",
        "Bytes",
    ]
    records = [record("a", found=report()), record("b", "crashed")]
    assert [t.title for t in shown(records, tmp_path)] == ["failed or fell short", ""]
    (_, told, _) = shown(records, tmp_path, detailed=True)
    assert told.rows == [("a", "not judged", "2.00×", "(0.05)", "-", "-", "30.0 %", "50.0 %", "50.0 %")]


def test_an_installed_package_adds_a_section_and_a_column(tmp_path: Path) -> None:
    (tmp_path / "acme_reports.py").write_text(PLUGIN)
    info = tmp_path / "acme_reports-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-reports\nVersion: 1.0\n")
    groups = (f"[onnxprune.{group}]\nacme = acme_reports\n" for group in ("sections", "columns"))
    (info / "entry_points.txt").write_text("\n".join(groups))
    paths = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", paths + SHOW], capture_output=True, text=True, timeout=120, check=True
    )
    model, batch, rows = done.stdout.split("=====")
    assert titles(model.encode())[3] == "Acme says"
    assert "<p>600 left</p>" in model
    assert ">Nodes</th>" in batch
    assert next(csv.DictReader(io.StringIO(rows, newline="")))["nodes"] == "7"
