"""What docs/extending.md shows: every block is installed as a package and used; its tables are up to date."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.registries import page
from tests.unit.test_plugins import ROOT, command

TEXT = (ROOT / "docs" / "extending.md").read_text()
MODEL, CALIB, EVAL = (
    ROOT / "models" / n for n in ("digits_resnet.onnx", "digits_calib.npz", "digits_eval.npz")
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install --target` leaves of the package on the page."""
    folder = tmp_path_factory.mktemp("site")
    modules = [block for block in blocks("python") if block.startswith("# acme_")]
    for block in modules:
        (folder / block.split()[1]).write_text(block)
    info = folder / "acme_prune-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-prune\nVersion: 1.0\n")
    (toml,) = blocks("toml")
    groups = re.findall(r'\[project.entry-points."(.*)"\]\nacme = "(.*)"', toml)
    assert len(groups) == len(modules) == 4
    (info / "entry_points.txt").write_text("".join(f"[{g}]\nacme = {m}\n" for g, m in groups))
    return folder


def test_the_tables_are_up_to_date() -> None:
    assert page(TEXT) == TEXT, "run python scripts/registries.py"


def test_help_lists_what_a_package_brings(site: Path) -> None:
    shown = " ".join(command(site, "prune", "--help").stdout.split())
    for text in (
        "obs|median|peak|early]", "median (median of the absolute weights)",
        "margin (mean distance between the two highest scores",
        "params, size or activations: a share", "activations=2M", "joint|ls-bias]",
        "ls-bias (least squares, then",
        "with --calib activation (", "peak (largest mean square of an activation",
    ):  # fmt: skip
        assert text in shown


@pytest.mark.parametrize(
    "given",
    [
        ("--target", "activations=0.6", "--criterion", "median"),
        ("--ratio", 0.5, "--criterion", "early", "--validate", EVAL, "--metric", "margin"),
        ("--ratio", 0.5, "--criterion", "peak", "--calib", CALIB, "--recover", "ls-bias"),
    ],
)
def test_what_a_package_brings_is_used(given: tuple[object, ...], site: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    args = ("prune", MODEL, "-o", out, *given, "--align", 1, "--no-bench", "--json")
    result = command(site, *args)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verification"]["status"] == "proved"
    named = dict(zip(given[::2], given[1::2], strict=True))
    assert report["settings"]["criterion"] == named["--criterion"]
    if "--target" in named:
        target = report["targets"]["activations"]
        assert 0.8 * target["limit"] < target["reached"] <= target["limit"]
    if "--metric" in named:
        assert report["validation"]["metric"] == "margin"
        found = report["validation"]
        assert found["drop"] == pytest.approx(found["before"] - found["after"])
    if "--recover" in named:
        assert report["recovery"]["method"] == "ls-bias"
        assert report["recovery"]["drift_after"] < report["recovery"]["drift_before"]


def test_without_the_package_its_names_are_refused(tmp_path: Path) -> None:
    result = command(None, "prune", MODEL, "-o", tmp_path / "o.onnx", "--ratio", 0.5, "--criterion", "median")
    assert result.returncode == 2
    assert "unknown criterion 'median', expected one of l1, l2" in result.stderr


def test_an_entry_that_fails_is_one_line(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "acme_bad.py").write_text(
        "from onnxprune.planning.criterion import criterion\n\n\n"
        "@criterion('bad', 'fails')\ndef bad(given):\n    raise ValueError('no order')\n"
    )
    info = broken / "acme_bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxprune.criteria]\nbad = acme_bad\n")
    result = command(broken, "prune", MODEL, "-o", tmp_path / "o.onnx", "--ratio", 0.5, "--criterion", "bad")
    assert result.returncode == 2
    assert result.stderr == "error: criterion bad fails: ValueError: no order\n"


def test_a_function_from_python_runs() -> None:
    (example,) = [block for block in blocks("python") if "onnxprune.prune(" in block]
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "proved\n", done.stderr
