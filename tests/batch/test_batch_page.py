"""The page of a batch: what it says, that hostile names stay harmless, and that a browser can work it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from onnxprune.errors import printable
from onnxprune.evaluation.closeness import Closeness
from onnxprune.evaluation.profile import SampledDrift
from onnxprune.reports.batch_page import batch_page
from onnxprune.reports.chart import Dot, _labels, linear, logarithmic, scatter
from onnxprune.reports.model_page import Page, model_page
from onnxprune.reports.record import STATUSES, Run
from tests.report_data import HOSTILE, Elements, bench, harmless, record, report, run_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BUTTON = "//table[contains(@class,'board')]//button[text()='%s']"
EVERY = "return [...document.querySelectorAll('.board %s')].map(x => %s)"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def close(drift: float, agreement: float) -> Closeness:
    return Closeness("held out", 51, drift, agreement, "agreement", "agreement", 0.5, None)


def many(count: int = 12) -> Run:
    """Make a run in which every model is faster than the one before, and one of every bad end."""
    good = [record(f"m{i:02}.onnx", found=report(bench=bench(10.0, 0.9 - 0.05 * i))) for i in range(count)]
    bad = [record(f"bad/{status}", status) for status in STATUSES[1:]]
    return run_of(*good, *bad)


def cells(page: bytes, table: str) -> list[list[str]]:
    """Return the texts of the rows of the table with this caption."""
    part = page.decode().split(f">{table}</caption>")[1].split("</table>")[0].split("<tbody>")[1]
    rows = [re.split(r"<t[dh][ >]", row)[1:] for row in part.split("<tr")[1:]]
    return [
        [re.sub(r"<[^>]*>", "", cell.partition(">")[2] if ">" in cell else cell).strip() for cell in row]
        for row in rows
    ]


def test_every_record_is_in_the_page_with_its_reason_and_log() -> None:
    given = many()
    page = batch_page(given)
    found = harmless(page)
    assert (
        "12 of 26 models pruned and written, 1 had nothing to prune, 13 failed or fell short." in found.text
    )
    links = [a["href"] for a in found.all("a")]
    for one in given.records:
        assert one.id in found.text
        assert one.reason in found.text
        assert one.log in links
    failed = cells(page, "Models that failed or fell short")
    assert [row[0] for row in failed] == [r.id for r in given.records if r.status not in ("done", "nothing")]
    assert all(row[2] == f"why {row[0]}" for row in failed)


def test_models_that_nobody_judged_are_ranked_by_speed_and_those_that_fell_short_below() -> None:
    slow = record("z/slow.onnx", found=report(bench=bench(10.0, 1.5)))
    untimed = record("z/untimed.onnx", found=report(bench=None, drift=None))
    missed = record("a/missed.onnx", "target-missed", report(bench=bench(10.0, 0.01)))
    page = batch_page(run_of(slow, untimed, missed, *many(3).records))
    rows = cells(page, "All models that were pruned")
    names = [re.match(r"\S+", row[0]) for row in rows]
    wanted = ["m02.onnx", "m01.onnx", "m00.onnx", "z/slow.onnx", "z/untimed.onnx", "a/missed.onnx"]
    assert [n[0] for n in names if n] == wanted
    assert rows[0][2].startswith("1.25×10 ms → 8 ms")
    assert rows[3][2].endswith("slower")
    assert rows[0][4].startswith("30.0 %2 k → 600")
    assert "1 model without timing or drift is not shown" in Elements(page).text


def test_the_leaderboard_begins_with_the_nearest_to_the_original_on_data() -> None:
    near, far, fast = (
        record(name, found=report(closeness=close(drift, 0.9), bench=bench(10.0, ratio)))
        for name, drift, ratio in (("near", 0.11, 0.9), ("far", 0.3, 0.1), ("fast", 0.11, 0.5))
    )
    ruined = record("a-ruined", "ruined", report(closeness=close(0.9, 0.95), bench=bench(10.0, 0.1)))
    unknown = record("b-unknown", found=report(bench=bench(10.0, 0.05)))
    page = batch_page(run_of(near, far, fast, ruined, unknown))
    rows = cells(page, "All models that were pruned")
    names = [re.match(r"\S+", row[0]) for row in rows]
    assert [n[0] for n in names if n] == ["fast", "near", "far", "b-unknown", "a-ruined"]
    assert [row[3][:4] for row in rows] == ["0.11", "0.11", "0.3h", "(0.0", "0.9h"]
    text = page.decode()
    tones = re.findall(r'<span class="tone (\w+)">[0-9.]+</span>', text)
    assert tones == ["good", "good", "care", "bad"]
    dots = re.findall(r'class="dot (\w+)"', text.split('class="scatter"')[1].split("</svg>")[0])
    assert sorted(dots) == ["bad", "care", "good", "good", "plain"]
    assert "at most 0.3, 1 not judged" in harmless(page).text


def test_links_of_dots_lead_to_rows() -> None:
    found = Elements(batch_page(many()))
    ids = {attributes["id"] for _, attributes in found.found if "id" in attributes}
    inner = [(a["href"] or "")[1:] for a in found.all("a") if (a["href"] or "").startswith("#")]
    assert len(inner) == 12
    assert set(inner) <= ids


@pytest.mark.parametrize(
    "name", [HOSTILE, "javascript:alert(1)", "//evil.example/x", "../../x", "a b?c#d%e", "\udcff"]
)
def test_hostile_ids_stay_harmless_and_logs_relative(name: str) -> None:
    good = record(name, found=report(name), log=f"logs/{name}.log")
    bad = structs.replace(record(name, "crashed", log=f"logs/{name}.log", reason=name), id=f"{name} 2")
    found = harmless(batch_page(run_of(good, bad)))
    assert printable(name) in found.text
    logs = [a["href"] or "" for a in found.all("a") if not (a["href"] or "").startswith("#")]
    assert len(logs) == 2
    assert all(re.fullmatch(r"logs/[A-Za-z0-9_.~/%-]+\.log", log) for log in logs)


@pytest.mark.parametrize("records", [(), (record("x", "timeout"),), (record("x", "nothing"),)])
def test_a_run_without_results_makes_a_page(records: tuple[Any, ...]) -> None:
    found = harmless(batch_page(run_of(*records)))
    assert not found.all("svg")
    assert "The run" in found.text


def test_models_without_numbers_are_told_as_such() -> None:
    odd = SampledDrift(float("inf"), 8, "generated")
    page = batch_page(
        run_of(record("x", found=report(drift=odd, bench=None)), record("y", found=report(drift=odd)))
    )
    assert "not finite" in harmless(page).text


def test_medians_and_bytes_are_of_what_was_written() -> None:
    given = run_of(
        *(
            record(f"m{i}", found=report(bench=bench(10.0, ratio)))
            for i, ratio in enumerate((0.25, 0.5, 1.0))
        ),
        record("bad", "gate-failed", report(bench=bench(10.0, 0.1))),
    )
    text = Elements(batch_page(given)).text
    assert "2.00×" in text
    assert "2 of 3 faster beyond noise" in text
    assert "12 kB" in text
    assert "6 kB" in text


# pictures


def test_labels_cover_neither_dots_nor_each_other() -> None:
    dots = [Dot(f"model_{i}", 0.1 * 1.05**i, 1 + 0.01 * (i * 7 % 40), "good", "", "") for i in range(40)]
    places = [(400 + 4.0 * i, 100 + 2.0 * (i * 7 % 40)) for i in range(40)]
    boxes = []
    for name, (x, y), kind in _labels(dots, places):
        long = 6.4 * len(name)
        left = {"": x, "right": x - long, "middle": x - long / 2}[kind]
        boxes.append((left, y - 12, left + long, y + 4))
    assert 4 < len(boxes) <= 16
    for i, a in enumerate(boxes):
        assert not [p for p in places if a[0] < p[0] < a[2] and a[1] < p[1] < a[3]]
        assert not [b for b in boxes[:i] if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]


def test_dots_lie_where_their_numbers_say() -> None:
    made = [
        Dot("a", 0.01, 2.0, "good", "t", "x"),
        Dot("b", 1.0, 1.0, "care", "t", "x"),
        Dot("c", float("inf"), 3.0, "good", "t", "x"),
    ]
    places = {}
    for dot, link in zip(made, scatter(made).iter("a"), strict=True):
        (circle,) = link.iter("circle")
        places[dot.name] = float(circle.attrib["cx"]), float(circle.attrib["cy"])
    assert places["a"][0] < places["b"][0] <= places["c"][0]
    assert places["c"][1] < places["a"][1] < places["b"][1]
    assert places["b"][1] - places["a"][1] == pytest.approx(places["a"][1] - places["c"][1], abs=0.2)


def test_scales_hold_their_numbers() -> None:
    one = linear(0.9, 2.77, 5, str)
    assert [t for t, _ in one.ticks] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert one.place(3.0) == 1
    assert one.place(0.9) == one.place(0.1) == 0
    two = logarithmic([0.02, 3.0, 0.0, float("nan")])
    assert [text for _, text in two.ticks] == ["0.01", "0.1", "1", "10"]
    assert two.place(0.1) == pytest.approx(1 / 3)
    assert two.place(0.0) == 0
    assert two.place(float("inf")) == 1
    assert len(logarithmic([]).ticks) == 2


# in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_script_runs_under_the_policy_of_the_page(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    for name, page in (("zoo", batch_page(many())), ("model", model_page(Page(report(HOSTILE), {})))):
        (tmp_path / f"{name}.html").write_bytes(page)
        profile = f"--user-data-dir={tmp_path / name}"
        done = subprocess.run(
            [CHROMIUM, *FLAGS, profile, "--dump-dom", (tmp_path / f"{name}.html").as_uri()],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.count('<button type="button">') >= 8
        assert done.stdout.count("<script>") == 1


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no Chromium with a driver is installed")
def test_a_click_sorts_and_words_filter(tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    (tmp_path / "page.html").write_bytes(batch_page(many()))
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get((tmp_path / "page.html").as_uri())
        look = driver.execute_script
        names = EVERY % ("tbody tr:not([hidden]) summary", "x.textContent")
        state = EVERY % ("th[aria-sort]", "[x.textContent, x.ariaSort]")
        slowest = [f"m{i:02}.onnx" for i in range(12)]
        assert look(names) == slowest[::-1]
        assert look(state) == []
        button = driver.find_element("xpath", BUTTON % "Speed")
        button.click()
        assert look(state) == [["Speed", "descending"]]
        assert look(names) == slowest[::-1]
        button.send_keys("\n")
        assert look(names) == slowest
        assert look(state) == [["Speed", "ascending"]]
        button.click()
        assert look(names) == slowest[::-1]
        driver.find_element("xpath", BUTTON % "Model").click()
        assert look(names) == slowest
        assert look(state) == [["Model", "ascending"]]
        field = driver.find_element("css selector", "input[aria-label='Filter models']")
        field.send_keys("m0 M03")
        assert look(names) == ["m03.onnx"]
        assert driver.find_element("css selector", ".board").is_displayed()
        assert "1 of 12" in look("return document.body.innerText")
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
