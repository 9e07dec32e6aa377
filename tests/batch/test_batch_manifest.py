"""Sources and settings of a batch: folders, globs, manifests, shards, and what lies on top of what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune import BatchSettings, PruneSettings
from onnxprune.batches import run as running
from onnxprune.batches.run import resolve
from onnxprune.errors import UsageError
from tests.batch import batch_invariants as invariants
from tests.batch.batch_pools import Here, tiny
from tests.batch.test_batch import run

TOML = """
[run]
jobs = 3
timeout = 60
memory_limit = "2GB"

[defaults]
ratio = 0.5
align = 1
bench = false
exclude = ["head*"]

[[models]]
path = "a.onnx"

[[models]]
path = "a.onnx"
name = "a-quarter.onnx"
settings = { ratio = 0.25, calib = "data.npz", input_shapes = { x = [2, 4] } }

[[models]]
path = "deep"
[models.settings]
targets = { macs = 0.5, size = "10MB" }
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(("a", "deep/b", "deep/er/c")):
        tiny(tmp_path / f"{name}.onnx", seed=number)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32))
    (tmp_path / "zoo.toml").write_text(TOML)
    return tmp_path


def names(source: Path | str, output: Path, **run_settings: Any) -> list[str]:
    return [e.name for e in resolve(source, output, {"ratio": 0.5}, run_settings).entries]


def test_a_manifest_says_what_each_model_gets(zoo: Path) -> None:
    found = resolve(zoo / "zoo.toml", zoo / "out", {}, {})
    got = {e.name: e.settings for e in found.entries}
    usual = {"align": 1, "bench": False, "exclude": ["head*"]}
    targets = {"macs": 0.5, "size": 10e6}
    assert got == {
        "a.onnx": {**usual, "ratio": 0.5},
        "a-quarter.onnx": {
            **usual, "ratio": 0.25, "calib": str(zoo / "data.npz"), "input_shapes": {"x": [2, 4]}
        },
        "deep/b.onnx": {**usual, "targets": targets},
        "deep/er/c.onnx": {**usual, "targets": targets},
    }  # fmt: skip
    assert found.run == BatchSettings(jobs=3, timeout=60, memory_limit=2 * 10**9)


def test_what_is_given_lies_on_top(zoo: Path) -> None:
    given = PruneSettings(ratio=0.75, seed=7)
    found = resolve(zoo / "zoo.toml", zoo / "out", given, BatchSettings(jobs=1))
    for entry in found.entries:
        assert (entry.settings["ratio"], entry.settings["seed"], entry.settings["align"]) == (0.75, 7, 1)
        assert "targets" not in entry.settings
    assert (found.run.jobs, found.run.timeout) == (1, 60)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nratio = 0.5\n[[models]]\npath='a.onnx'", "unknown key 'default'; nearest: 'defaults'"),
        ("[run]\njob = 2\n[[models]]\npath='a.onnx'", r"\[run\]: unknown setting 'job'; nearest: 'jobs'"),
        ("[defaults]\nratoi = 1\n[[models]]\npath='a.onnx'", "unknown setting 'ratoi'; nearest: 'ratio'"),
        ("[[models]]\npath='a.onnx'\nsetings={}", "model 1: unknown key 'setings'; nearest: 'settings'"),
        ("[[models]]\npath='a.onnx'\n[models.settings]\nratio='half'", "expected `float | null`, got `str`"),
        ("[[models]]\npath='a.onnx'\n[models.settings]\nratio=1.5", "'a.onnx': got ratio 1.5, expected the"),
        ("[[models]]\npath='a.onnx'\n[models.settings]\ntargets={mac=0.5}", "KEY one of macs"),
        ("[[models]]\npath='a.onnx'\n[[models]]\npath='a.onnx'", "two models are called 'a.onnx'"),
        ("[[models]]\npath='a.onnx'\nname='../b.onnx'", "name '../b.onnx': expected a relative path"),
        ("[[models]]\npath='a.onnx'\nname='/b.onnx'", "name '/b.onnx': expected a relative path"),
        ("[[models]]\npath='a.onnx'\nname='x'\n[[models]]\npath='a.onnx'\nname='x/y'", "file and folder"),
        ("[[models]]\nname='a.onnx'", "model 1: 'path' is None, expected text"),
        ("models = []", "got no models"),
        ("models = 3", "got no models"),
        ("[[models]\n", "is no TOML"),
        ("[[models]]\npath='a.onnx'", "one of --ratio and --target is required"),
        ("run={jobs=0}\n[[models]]\npath='a.onnx'\nsettings={ratio=0.5}", "--jobs must be at least 1"),
        ("run={jobs='x'}\n[[models]]\npath='a.onnx'\nsettings={ratio=0.5}", r"got `str` - at `\$.jobs`"),
        ("schema_version = 9\n[[models]]\npath='a.onnx'", "schema_version is 9, expected 1"),
    ],
)  # fmt: skip
def test_manifests_that_are_wrong_are_refused_in_one_line(zoo: Path, text: str, said: str) -> None:
    (zoo / "wrong.toml").write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        resolve(zoo / "wrong.toml", zoo / "out", {}, {})
    assert "\n" not in str(caught.value)
    assert not (zoo / "out").exists()


def test_a_saved_run_is_the_same_run(zoo: Path) -> None:
    args = ("-o", zoo / "out", "--seed", 3, "--exclude", "nothing*", "--jobs", 1, "-q")
    first = run(zoo / "zoo.toml", *args, "--save-config", zoo / "saved.json")
    assert first.returncode in (0, 7), first.stderr
    saved = json.loads((zoo / "saved.json").read_text())
    assert {m["settings"]["seed"] for m in saved["models"]} == {3}
    assert saved["run"]["jobs"] == 1
    again = resolve(zoo / "saved.json", zoo / "other", {}, {})
    for entry, model in zip(again.entries, saved["models"], strict=True):
        assert (entry.name, entry.settings) == (model["name"], model["settings"])
    second = run(zoo / "saved.json", "-o", zoo / "out", "-q")
    assert second.returncode == first.returncode, second.stderr
    events = [e["event"] for e in invariants.lines(zoo / "out")]
    assert events.count("run") == 1, "the saved run was not recognised as finished"


def test_sources(zoo: Path) -> None:
    (zoo / "deep" / "loop").symlink_to(zoo)
    (zoo / "odd\nname.onnx").write_bytes(b"")
    out = zoo / "out"
    every = ["a.onnx", "deep/b.onnx", "deep/er/c.onnx", "odd\nname.onnx"]
    assert names(zoo, out) == every
    list(onnxprune.batch(zoo / "deep", out, {"ratio": 0.5, "align": 1, "bench": False}))
    assert (out / "models" / "b.onnx").is_file()
    assert names(zoo, out) == every, "the outputs are no inputs"
    assert names(f"{zoo}/deep/**/*.onnx", out) == ["b.onnx", "er/c.onnx"]
    assert names(zoo / "a.onnx", out) == ["a.onnx"]
    with pytest.raises(UsageError, match="unknown setting 'job'; nearest: 'jobs'"):
        names(zoo, out, job=2)
    for source, said in ((zoo / "no", "does not exist"), (f"{zoo}/*.tf", "holds no .onnx file")):
        with pytest.raises(UsageError, match=said):
            names(source, out)


def test_shards_share_the_work_and_the_whole_sums_it_up(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        tiny(zoo / f"m{number}.onnx", seed=number)
    monkeypatch.setattr(running, "Workers", Here)
    settings, out = {"ratio": 0.5, "align": 1, "bench": False}, zoo / "out"
    every = set(names(zoo, out))
    shares = []
    for number in (1, 2, 3):
        found = onnxprune.batch(zoo, out, settings, {"shard": f"{number}/3"})
        shares.append({r.id for r in found})
        report = json.loads((out / f"shard-{number}-of-3" / "report.json").read_text())
        assert {r["id"] for r in report["records"]} == shares[-1]
    assert set.union(*shares) == every
    assert sum(map(len, shares)) == len(every)
    assert sum(bool(share) for share in shares) > 1
    assert {r.id for r in onnxprune.batch(zoo, out, settings)} == every
    begun = [e["id"] for e in invariants.lines(out) if e["event"] == "begun"]
    assert sorted(begun) == sorted(every), "the whole run did something again"
    invariants.check_finished(out, every)
    with pytest.raises(UsageError, match="--shard is i/n"):
        onnxprune.batch(zoo, out, settings, {"shard": "4/3"})


def test_shards_run_side_by_side_and_the_whole_waits(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "Workers", Here)
    tiny(zoo / "d.onnx")
    settings, out = {"ratio": 0.5, "align": 1, "bench": False}, zoo / "out"
    shares = [len(list(resolve(zoo, out, settings, {"shard": f"{i}/2"}).entries)) for i in (1, 2)]
    assert min(shares) > 0
    first = onnxprune.batch(zoo, out, settings, {"shard": "1/2"})
    next(iter(first))
    assert len(list(onnxprune.batch(zoo, out, settings, {"shard": "2/2"}))) == shares[1]
    for shard in (None, "1/2"):
        with pytest.raises(UsageError, match="in use by another run"):
            list(onnxprune.batch(zoo, out, settings, {"shard": shard}))
    assert len(list(first)) == shares[0] - 1
    assert len(list(onnxprune.batch(zoo, out, settings))) == sum(shares)


def test_settings_know_the_bytes_of_their_data(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "Workers", Here)
    settings = {"ratio": 0.5, "align": 1, "bench": False, "calib": os.path.relpath(zoo / "data.npz")}
    [first] = onnxprune.batch(zoo / "a.onnx", zoo / "out", settings)
    assert [first] == list(onnxprune.batch(zoo / "a.onnx", zoo / "out", settings))
    np.savez(zoo / "data.npz", x=np.ones((8, 4), np.float32))
    [second] = onnxprune.batch(zoo / "a.onnx", zoo / "out", settings)
    assert second.settings == first.settings
    assert second.settings_sha256 != first.settings_sha256


def test_settings_that_only_python_can_hold_are_refused(zoo: Path) -> None:
    with pytest.raises(UsageError, match="calib: got dict, expected a path"):
        onnxprune.batch(zoo, zoo / "out", PruneSettings(ratio=0.5, calib={"x": np.ones((8, 4), np.float32)}))


def test_names_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "Workers", Here)
    source, out = tmp_path / "zoo", tmp_path / "out"
    source.mkdir()
    data = [
        b"\xff\xfe",
        b"a" * 249,
        b"b" * 249,
        "ü☃ <script>".encode(),
        b"line\nbreak\x1b[1m",
        b".hidden",
        b"-o",
    ]
    odd = [os.fsdecode(name) + ".onnx" for name in data]
    for name in odd:
        tiny(source / name)
    found = {r.id: r for r in onnxprune.batch(source, out, {"ratio": 0.5, "align": 1, "bench": False})}
    assert {n: r.status for n, r in found.items()} == dict.fromkeys(odd, "done")
    assert len({r.log for r in found.values()}) == len(odd)
    invariants.check_always(out)
    for name in odd:
        assert (out / "models" / name).is_file()
        assert (out / found[name].log).is_file()
    assert len(list((out / "plans").iterdir())) == len(odd)
    shown = run(source, "-o", out, "--ratio", 0.5, "--align", 1, "--no-bench", "-v")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refusing(path: Any = ".") -> Any:
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match="deep/er' cannot be read: Permission denied"):
        names(zoo, zoo / "out")
