"""The registry: names, who registered them, and what is loaded when."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from onnxprune import registry as module
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.registries import CRITERIA, METRICS, RECOVERIES, TARGETS
from onnxprune.registry import OURS, Registry


@dataclass(frozen=True)
class Shade:
    name: str
    summary: str = "a shade"


SHADES: Registry[Shade] = Registry("shade", (), "onnxprune.no_such_group")
HOME = "from onnxprune_shades import SHADES, Shade\nSHADES.add(Shade('dark'))\n"


def shades(*homes: str) -> Registry[Shade]:
    return Registry("shade", homes, "onnxprune.no_such_group")


def test_entries_by_name_in_their_order() -> None:
    found = shades()
    dark, light = found.add(Shade("dark")), found.add(Shade("light"))
    assert found.names() == ("dark", "light")
    assert list(found) == [dark, light]
    assert found.get("light") is light
    assert "dark" in found
    assert "grey" not in found
    assert found.origin("dark") == OURS


def test_a_name_is_taken_once() -> None:
    found = shades()
    found.add(Shade("dark"))
    with pytest.raises(OnnxPruneError, match="shade 'dark' is registered already"):
        found.add(Shade("dark"))


def test_an_unknown_name_gets_the_nearest() -> None:
    found = shades()
    found.add(Shade("dark"))
    with pytest.raises(UsageError, match="unknown shade 'drak', expected one of dark; nearest: 'dark'"):
        found.get("drak")


def test_only_registered_entries_are_ours() -> None:
    found = shades()
    dark = found.add(Shade("dark"))
    assert found.is_ours(dark)
    assert not found.is_ours(Shade("dark", "another one"))
    assert not found.is_ours(Shade("light"))


def test_home_modules_are_imported_when_a_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shades_home.py").write_text(
        f"from {__name__} import Shade, current\ncurrent().add(Shade('dark'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = shades("shades_home")
    monkeypatch.setattr(sys.modules[__name__], "SHADES", found)
    assert "shades_home" not in sys.modules
    assert found.names() == ("dark",)
    assert "shades_home" in sys.modules


def current() -> Registry[Shade]:
    return SHADES


@pytest.mark.parametrize("broken", [False, True])
def test_entry_points_are_loaded_once_and_leave_nothing_where_they_fail(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"foreign_shades_{broken}"
    more = "raise ValueError('no light')" if broken else ""
    (tmp_path / f"{name}.py").write_text(
        f"from {__name__} import Shade, current\ncurrent().add(Shade('pale'))\n{more}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("acme", name, "onnxprune.shades")
    monkeypatch.setattr(module, "entry_points", lambda group: [entry] if group == "onnxprune.shades" else [])
    found: Registry[Shade] = Registry("shade", (), "onnxprune.shades")
    found.add(Shade("dark"))
    monkeypatch.setattr(sys.modules[__name__], "SHADES", found)
    if broken:
        with pytest.raises(UsageError, match=r"the shades of 'foreign_shades_True'.*ValueError: no light"):
            found.names()
        assert [e.name for e in found._entries.values()] == ["dark"]
        return
    assert found.names() == ("dark", "pale")
    assert found.origin("pale") == name
    assert not found.is_ours(found.get("pale"))


def test_all_our_entries_say_what_they_are() -> None:
    assert CRITERIA.names() == (
        "l1", "l2", "linf", "bn-scale", "fpgm", "random", "activation", "wanda", "obs",
    )  # fmt: skip
    assert METRICS.names() == ("top1", "agreement", "cosine", "psnr", "drift", "boxes")
    assert TARGETS.names() == ("macs", "params", "size", "drift", "drop")
    assert RECOVERIES.names() == ("none", "bias", "ls", "refit", "joint")
    for registry in (CRITERIA, METRICS, TARGETS, RECOVERIES):
        for entry in registry:
            assert entry.summary
            assert "\n" not in entry.summary
            assert registry.is_ours(entry)


def test_a_home_module_that_fails_leaves_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "shades_torn.py"
    head = f"from {__name__} import Shade, current\ncurrent().add(Shade('dark'))\n"
    home.write_text(f"{head}raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = shades("shades_torn")
    monkeypatch.setattr(sys.modules[__name__], "SHADES", found)
    with pytest.raises(KeyboardInterrupt):
        found.names()
    home.write_text(f"{head}current().add(Shade('light'))\n")
    assert found.names() == ("dark", "light")
