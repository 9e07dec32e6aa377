"""What native code does to a command: it crashes, it never ends, and the command says so in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.cli.supervise import _Trace
from tests.cli.test_cli import HALF, RESNET, command, posix, refused

pytestmark = [posix, pytest.mark.slow]
STOPPED = (  # a busy machine may still be at an earlier stage
    r"error: stopped after \d s, the limit \(--timeout\)( while [a-z ]+)?; nothing half written stays\n"
)
value = helper.make_tensor_value_info


def endless() -> onnx.ModelProto:
    """A Loop without a limit, whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", 1, [1, 4])],
        [value("d", TensorProto.BOOL, []), value("w", 1, [1, 4])],
    )
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], name="forever", body=body)
    graph = helper.make_graph(
        [loop], "g", [value("x", 1, [1, 4])], [value("y", 1, [1, 4])],
        [numpy_helper.from_array(np.array(True), "true")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ended(code: int, *args: object, setup: str = "") -> str:
    """Run the program after some lines of Python; return what it says on stderr."""
    words = command(*args)
    if setup:
        words[1:3] = ["-c", f"import onnxprune\n{setup}\nimport onnxprune.cli; onnxprune.cli.main()"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    onnx.save(endless(), tmp_path / "m.onnx")
    assert re.fullmatch(STOPPED, ended(6, "inspect", tmp_path / "m.onnx", "--timeout", "4"))


def test_time_that_is_over_while_the_result_is_written(tmp_path: Path) -> None:
    setup = "import time, onnxprune.model.save as save; save._read_back = lambda *_: time.sleep(60)"
    arguments = ("prune", RESNET, "-o", tmp_path / "o.onnx", "--plan", tmp_path / "p.json", *HALF)
    said = ended(6, *arguments, "--timeout", "8", setup=setup)
    assert re.fullmatch(STOPPED, said)
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    setup = "import os, onnxprune.model.save as save; save._read_back = lambda *_: os.kill(os.getpid(), 9)"
    said = ended(6, "prune", RESNET, "-o", tmp_path / "o.onnx", *HALF, setup=setup)
    assert said.startswith("error: killed from outside (SIGKILL): ")
    assert os.listdir(tmp_path) == []


def test_a_crash_is_one_line() -> None:
    setup = "import os, onnxprune.model.feeds as feeds\nfeeds._variants = lambda *_: os.kill(os.getpid(), 11)"
    arguments = ("prune", RESNET, "--dry-run", *HALF)
    said = ended(5, *arguments, setup=setup)
    assert said.startswith("error: the process died of SIGSEGV while finding inputs that run the model; ")
    assert len(said.splitlines()) == 1
    assert "most recent call first" in ended(5, *arguments, "-vv", setup=setup)


def test_the_place_of_a_crash_is_read_from_its_trace() -> None:
    package = Path(sys.modules["onnxprune"].__file__ or "").parent
    frame = 'Fatal Python error: Segmentation fault\n\n  File "{}", line 1 in run\n'
    trace = _Trace(
        frame.format("/lib/onnxruntime/capi/session.py")
        + frame.format(package / "model/runtime.py")
        + frame.format(package / "oracle/prove.py")
        + frame.format(package / "pipeline/prune.py")
    )
    assert trace.in_runtime
    assert trace.stage() == "proving the result"
    assert _Trace("").stage() == ""
    assert not _Trace("").in_runtime


def test_ctrl_c_ends_a_model_that_never_ends(tmp_path: Path) -> None:
    onnx.save(endless(), tmp_path / "m.onnx")
    words = command("inspect", tmp_path / "m.onnx")
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both processes
        assert process.stderr is not None
        assert process.stderr.read() == b"interrupted\n"
    assert process.returncode == 130


def test_an_interrupt_while_the_program_is_imported(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        command("inspect", RESNET), env=environment, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, b"interrupted\n")


def test_a_timeout_inside_another_program_is_refused() -> None:
    assert refused(2, "inspect", RESNET, "--timeout", "3") == (
        "error: --timeout needs the program `onnxprune`, on a system that forks processes"
    )
