"""Settings: what each says of itself is what the command line, manifests, plans and reports go by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune import BatchSettings, BenchSettings, PruneSettings, SensitivitySettings, SparsifySettings
from onnxprune.batches import settings as plain_settings
from onnxprune.cli.app import AFTER_FILES, BEFORE_FILES, program
from onnxprune.cli.options import chosen, from_settings
from onnxprune.errors import UsageError
from onnxprune.reports.facts import command
from onnxprune.settings.kinds import IN_PYTHON, Bytes, Kind, Name, Number, Step, Word
from onnxprune.settings.option import Group, Option, Part, check, defaults_of, options_of, section, setting
from onnxprune.settings.tables import Ratios, Shapes, Shares, Targets, Values

SAMPLES: dict[str, Any] = {
    "ratio": 0.25, "ratios": (("2.body*", 0.5),), "targets": {"macs": 0.5, "size": 1e7}, "criterion": "wanda",
    "scope": "global", "granularity": "rows", "align": 4, "min_channels": 2, "exclude": ("a*", "type:Conv"),
    "seed": 3, "input_shapes": {"x": (2, None)}, "input_values": {"n": 7}, "bench": False,
    "allow_unproved": True, "threads": 2, "provider": "CUDAExecutionProvider", "calib": "data.npz",
    "recover": "ls", "memory_limit": 3 << 30, "inline": "all", "validate": "eval.npz", "metric": "psnr",
    "max_drop": 0.5, "max_drift": 0.25, "ruined": 0.75, "steps": 2, "detailed": True,
}  # fmt: skip


def made(**given: Any) -> PruneSettings:
    """Settings that hold what is given, and what it needs beside it."""
    usual = {} if {"ratio", "ratios", "targets"} & given.keys() else {"ratio": 0.25}
    if "max_drop" in given or "metric" in given:
        usual["validate"] = "eval.npz"
    return PruneSettings(**{**usual, "calib": "data.npz", **given})


@pytest.mark.parametrize("name", [n for n, o in options_of(PruneSettings).items() if o.group or n == "ratio"])
def test_every_setting_survives_the_command_line_of_a_report(name: str) -> None:
    wanted = made(**{name: SAMPLES[name]})
    report = {**wanted.of_plan(), **wanted.of_run(), "bench": wanted.bench}
    words = command(report, "m.onnx", "o.onnx")
    assert words[:5] == ["onnxprune", "prune", "m.onnx", "-o", "o.onnx"]
    again = parsed([w.strip("'").replace("n=DATA", "n=7") for w in words[2:]])
    assert getattr(again, name) == getattr(wanted, name)
    assert (again.of_plan(), again.of_run()) == (wanted.of_plan(), wanted.of_run())


def parsed(words: list[str]) -> PruneSettings:
    """Parse the words of `prune` as the command line does."""
    prune = program.commands["prune"]
    with prune.make_context("prune", words) as ctx:
        return PruneSettings(**chosen(PruneSettings, ctx.params, *BEFORE_FILES, *AFTER_FILES))


def test_samples_are_no_defaults() -> None:
    assert SAMPLES.keys() == {f.name for f in fields(PruneSettings)}
    assert not [n for n, v in defaults_of(PruneSettings).items() if v == SAMPLES[n]]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_setting_survives_a_manifest(name: str, tmp_path: Path) -> None:
    given = json.loads(json.dumps({name: SAMPLES[name]}))
    read = plain_settings.read(given, "here", tmp_path)
    usual = {} if name in ("ratio", "ratios", "targets") else {"ratio": 0.25}
    base = {"calib": "data.npz", "validate": "eval.npz"}
    found = getattr(plain_settings.from_plain({**base, **usual, **read}), name)
    if name in ("calib", "validate"):
        assert found == str(tmp_path / SAMPLES[name])
    else:
        assert found == SAMPLES[name]


def test_words_in_place_of_data_are_no_paths(tmp_path: Path) -> None:
    given = {"calib": "synthetic", "validate": "synthetic", "metric": "a.py:f"}
    read = plain_settings.read(given, "here", tmp_path)
    assert read == {
        "calib": "synthetic", "validate": str(tmp_path / "synthetic"), "metric": str(tmp_path / "a.py:f")
    }  # fmt: skip
    assert plain_settings.differing(PruneSettings(ratio=0.5, calib="synthetic"))["calib"] == "synthetic"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"calib": {"x": np.zeros(1)}}, "calib: got dict, expected a path"),
        ({"criterion": lambda given: given}, "criterion: got function, expected a name"),
    ],
)
def test_what_lives_in_python_cannot_go_to_another_process(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plain_settings.differing(PruneSettings(ratio=0.5, **given))


def test_the_settings_of_a_plan_and_their_order() -> None:
    found = PruneSettings(ratio=0.5, calib={"x": np.zeros(1)}, exclude=("a",)).of_plan()
    assert list(found.items()) == [
        ("ratio", 0.5), ("ratios", []), ("targets", {}), ("criterion", "obs"), ("scope", "local"),
        ("granularity", "finest"), ("min_channels", 1), ("exclude", ["a"]), ("seed", 0), ("steps", 1),
        ("recover", "joint"), ("calibration", "given"),
    ]  # fmt: skip


def test_a_report_names_what_is_no_text() -> None:
    given = PruneSettings(
        ratio=0.5, calib=Path("d.npz"), validate={"x": np.zeros(1)}, metric=max, criterion=len,
        input_values={"b": np.zeros(3), "a": 1},
    )  # fmt: skip
    found = given.of_run()
    assert [found[k] for k in ("calib", "validate", "metric")] == ["d.npz", IN_PYTHON, IN_PYTHON]
    assert found["input_values"] == ["a", "b"]
    assert given.of_plan()["criterion"] == IN_PYTHON
    json.dumps(found)


# -- a setting is one edit -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Wider(PruneSettings):
    """As somebody would add a setting: one field."""

    shade: str = setting(
        "dark",
        Option(Word(("dark", "light")), "--shade", "How dark.", Group.WIDTHS, Part.CHOICE),
    )


def test_one_field_is_an_option_a_check_and_a_line_of_the_plan() -> None:
    @click.command()
    @from_settings(Wider, Group.WIDTHS)
    def shown(**options: Any) -> None:
        click.echo(json.dumps(chosen(Wider, options, "shade", "align")))

    helped = CliRunner().invoke(shown, ["--help"]).stdout
    assert "--shade [dark|light]" in helped
    assert "How dark.  [default: dark]" in helped
    assert json.loads(CliRunner().invoke(shown, ["--shade", "light"]).stdout) == {
        "shade": "light",
        "align": 0,
    }
    assert "expected one of dark, light" in CliRunner().invoke(shown, ["--shade", "grey"]).stderr
    assert dict(section(Wider(ratio=0.5, shade="light"), Part.CHOICE))["shade"] == "light"
    with pytest.raises(UsageError, match="unknown shade 'grey'"):
        check(Wider(ratio=0.5, shade="grey"))


def test_options_of_a_group_come_in_the_order_of_the_fields() -> None:
    listed = [o.flag for n, o in options_of(PruneSettings).items() if o.group is Group.WIDTHS]
    assert listed == ["--scope", "--granularity", "--align", "--min-channels", "--exclude", "--seed"]
    prune, batch = (program.commands[name] for name in ("prune", "batch"))
    for option in options_of(PruneSettings).values():
        for found in (prune, batch):
            flags = {flag for p in found.params for flag in p.opts}
            assert not option.group or option.flag in flags


def test_sensitivity_shares_what_prune_says() -> None:
    both = options_of(PruneSettings), options_of(SensitivitySettings)
    for name in ("calib", "criterion", "granularity", "exclude", "memory_limit", "inline", "input_shapes"):
        assert both[0][name] is both[1][name]
    assert defaults_of(SensitivitySettings)["calib"] is MISSING


# -- what makes no sense -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "got neither"),
        ({"ratio": 1.0}, "at least 0 and below 1"),
        ({"ratios": (("a", 1.0),)}, "at least 0 and below 1"),
        ({"ratio": 0.5, "scope": "wide"}, "unknown scope 'wide', expected one of local, global"),
        ({"ratio": 0.5, "criterion": "l3"}, "unknown criterion 'l3', expected one of l1, l2"),
        ({"ratio": 0.5, "criterion": 3}, "got int, expected a name or a function"),
        ({"ratio": 0.5, "recover": "best"}, "unknown recovery method 'best'"),
        ({"ratio": 0.5, "criterion": "obs"}, "criterion obs looks at activations: give --calib DATA"),
        ({"ratio": 0.5, "recover": "ls"}, "--recover ls fits to activations: give --calib DATA"),
        ({"ratio": 0.5, "min_channels": 0}, "--min-channels must be at least 1: got 0"),
        ({"ratio": 0.5, "align": -1}, "--align is 'auto' or at least 1: got -1"),
        ({"targets": {"speed": 0.5}}, "unknown target 'speed', expected one of macs, params, size"),
        ({"targets": {"macs": 20}}, "a share is at most 1, an amount at least 1000"),
        ({"ratio": 0.5, "inline": "some"}, "unknown inline 'some', expected one of auto, all, none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        PruneSettings(**given)
    assert says in str(error.value)


def test_what_none_stands_for() -> None:
    bare, data = PruneSettings(ratio=0.5), PruneSettings(targets={"macs": 0.5}, calib="d.npz")
    found = [(s.resolved_criterion, s.resolved_recover, s.resolved_scope) for s in (bare, data)]
    assert found == [("l2", "none", "local"), ("obs", "joint", "global")]


# -- kinds ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Ratios("ratio"), "0.5", (None, 0.5)), (Ratios("ratio"), "conv*=0.25", ("conv*", 0.25)),
        (Ratios("ratio"), "re:a=b=0.25", ("re:a=b", 0.25)),
        (Targets(), "macs=0.5", ("macs", 0.5)), (Targets(), "macs=1", ("macs", 1.0)),
        (Targets(), "macs=500M", ("macs", 5e8)), (Targets(), "params=2.5k", ("params", 2500.0)),
        (Targets(), "params=30000", ("params", 30000.0)), (Targets(), "macs=1e6", ("macs", 1e6)),
        (Targets(), "size=10MB", ("size", 1e7)), (Targets(), "size=1MiB", ("size", float(2**20))),
        (Targets(), "size=0.25", ("size", 0.25)), (Targets(), "drop=0", ("drop", 0.0)),
        (Shapes(), "input:1,3,224,224", ("input", (1, 3, 224, 224))),
        (Shapes(), "input:0:?,-1, 0", ("input:0", (None, None, 0))), (Shapes(), "sr:", ("sr", ())),
        (Values(), "sr=16000", ("sr", 16000)), (Values(), "x=[[1, 2.5]]", ("x", [[1, 2.5]])),
        (Values(), "x=true", ("x", True)), (Values(), "x=a=b", ("x", "a=b")),
        (Step(), "auto", 0), (Step(), "16", 16), (Bytes(), "2GiB", 2 << 30), (Number(), "0.5", 0.5),
    ],
)  # fmt: skip
def test_texts_are_read(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (Shapes(), ("1,3", ":1", "x:1,,2", "x:-2", "x:1.5", "x:²", "x:" + "9" * 30)),
        (Values(), ("x", "=1")), (Step(), ("0", "-1", "x", "1.5", "9" * 30)),
        (Ratios("ratio"), ("=1", "a=b")),
        (Targets(), ("macs", "speed=1", "macs=5Q", "macs=1.k", "size=1B", "drift=5M", "drift=5%")),
        (Number(), ("x", "")), (Bytes(), ("2 stones",)), (Word(("a",)), ("b",)),
    ],
)  # fmt: skip
def test_other_texts_are_refused(kind: Kind, texts: tuple[str, ...]) -> None:
    for text in texts:
        with pytest.raises(UsageError):
            kind.parse(text)


def test_values_of_inputs_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    assert Values().parse(f"x={tmp_path / 'x.npy'}")[1].shape == (2, 3)
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "g.npy").write_text("garbage")
    for name in ("o.npy", "g.npy", "missing.npy"):
        with pytest.raises(UsageError, match=name):
            Values().parse(f"x={tmp_path / name}")
    placed = Values().read({"x": "x.npy", "y": 1}, tmp_path)
    assert placed == {"x": str(tmp_path / "x.npy"), "y": 1}
    assert Values().files(placed) == (str(tmp_path / "x.npy"),)
    assert Values().loaded(placed)["x"].shape == (2, 3)


def test_a_name_given_twice_is_refused() -> None:
    for kind, name in ((Targets(), "targets"), (Shapes(), "input_shapes")):
        with pytest.raises(UsageError, match="'a' is given twice"):
            kind.fields(name, [("a", 1), ("a", 2)])
    with pytest.raises(UsageError, match="got 2 for all groups"):
        Ratios("ratio").fields("ratios", [(None, 0.1), (None, 0.2)])


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Bytes(), 2 << 30, "2GiB"),
        (Bytes(), 1000, "1000"),
        (Step(), 0, "auto"),
        (Shares(), (0.1, 0.5), "0.1, 0.5"),
    ],
)
def test_values_print_as_they_are_written(kind: Kind, value: Any, text: str) -> None:
    assert kind.shown(value) == text


def test_names_are_looked_up_when_they_are_needed() -> None:
    class Asked:
        asked = 0

        def names(self) -> tuple[str, ...]:
            self.asked += 1
            return ("one",)

    registry: Any = Asked()
    take: Callable[..., Any] = from_settings

    @dataclass(frozen=True)
    class Settings:
        which: str = setting("one", Option(Name(registry), "--which", "Which.", Group.WIDTHS))

    @click.command()
    @take(Settings, Group.WIDTHS)
    def shown(**_: Any) -> None:
        """Nothing."""

    assert registry.asked == 0
    assert "--which [one]" in CliRunner().invoke(shown, ["--help"]).stdout
    assert registry.asked


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ratio": "0.5"}, "setting 'ratio': got '0.5', expected a number or None"),
        ({"ratio": True}, "setting 'ratio': got True, expected a number or None"),
        ({"align": True}, "setting 'align': got True, expected a whole number"),
        ({"seed": 1.5}, "setting 'seed': got 1.5, expected a whole number"),
        ({"seed": -1}, "--seed must be at least 0: got -1"),
        ({"exclude": "abc"}, "setting 'exclude': got 'abc', expected a tuple, each of it text"),
        ({"bench": "no"}, "setting 'bench': got 'no', expected True or False"),
        ({"targets": ["macs"]}, "setting 'targets': got ['macs'], expected a dict from text to a number"),
        (
            {"ratios": (("a",),)},
            "setting 'ratios': got (('a',),), expected a tuple, each of it a tuple of text and a number",
        ),
        ({"memory_limit": -1}, "--memory-limit must be above 0 bytes: got -1"),
    ],
)
def test_values_of_another_type_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        PruneSettings(**{"ratio": 0.5, **given})
    assert str(raised.value) == says


def test_numbers_of_numpy_are_numbers() -> None:
    assert PruneSettings(ratio=np.float32(0.5), seed=np.int64(3)).seed == 3
    assert PruneSettings(ratio=0, input_shapes={"x": [None, 3]}).ratio == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SensitivitySettings(calib="a", shares=0.5), "setting 'shares': got 0.5"),  # type: ignore[arg-type]
        (lambda: SparsifySettings(sparsity="0.5"), "setting 'sparsity': got '0.5'"),  # type: ignore[arg-type]
        (lambda: BenchSettings(seconds="1"), "setting 'seconds': got '1'"),  # type: ignore[arg-type]
        (lambda: BenchSettings(seed=-1), "seed: got -1, expected 0 or more"),
        (lambda: BatchSettings(jobs="2"), "setting 'jobs': got '2'"),  # type: ignore[arg-type]
    ],
)
def test_other_settings_are_checked_alike(make: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()
