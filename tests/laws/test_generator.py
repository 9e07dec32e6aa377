"""The random graphs that the laws are tested on are themselves valid, runnable, lively and repeatable."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.laws.generator import FEATURES, Case, generate

ROOT = Path(__file__).parents[2]
DIGESTS = """
import hashlib
from tests.laws.generator import generate
for seed in (0, 1, 7, 42, 1001):
    print(hashlib.sha256(generate(seed).model.SerializeToString(deterministic=True)).hexdigest())
"""


def session(case: Case) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("seed", [*range(60), *range(20000, 20030)])
def test_models_check_and_run(seed: int) -> None:
    case = generate(seed)
    onnx.checker.check_model(case.model, full_check=True)
    run = session(case)
    declared = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in case.model.graph.output]
    rng = np.random.default_rng(seed)
    for shapes in case.input_shapes:
        first = run.run(None, case.feeds(shapes, rng))
        second = run.run(None, case.feeds(shapes, rng))
        for output, dims, a, b in zip(run.get_outputs(), declared, first, second, strict=True):
            where = f"seed {seed}, output {output.name!r}, inputs {shapes}"
            assert [d or real for d, real in zip(dims, a.shape, strict=True)] == list(a.shape), where
            assert np.isfinite(a).all(), where
            a, b = a.astype(np.float64), b.astype(np.float64)
            assert np.abs(a - b).max() > 1e-4 * np.abs(a).max(), f"{where}: does not depend on the inputs"
            if a.size > 8:
                assert 1e-2 < a.std() < 1e2, where


@pytest.mark.parametrize("seed", range(60, 120))
def test_input_shapes_cover_what_is_dynamic(seed: int) -> None:
    case = generate(seed)
    inputs = {i.name: i.type.tensor_type.shape.dim for i in case.model.graph.input}
    for name in case.input_shapes[0]:
        for axis, dim in enumerate(inputs[name]):
            sizes = {shapes[name][axis] for shapes in case.input_shapes}
            if dim.dim_param:
                assert len(sizes) >= 2, f"seed {seed}: {name} axis {axis} is dynamic, tried {sizes}"
            else:
                assert sizes == {dim.dim_value}, (
                    f"seed {seed}: {name} axis {axis} is {dim.dim_value}, tried {sizes}"
                )


def test_a_seed_always_gives_the_same_bytes() -> None:
    here = [
        hashlib.sha256(generate(seed).model.SerializeToString(deterministic=True)).hexdigest()
        for seed in (0, 1, 7, 42, 1001)
    ]
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here


@pytest.mark.slow
def test_every_feature_occurs() -> None:
    counts = Counter(
        feature for seed in (*range(700), *range(20000, 20300)) for feature in generate(seed).features
    )
    assert set(counts) <= set(FEATURES)
    assert {f: counts[f] for f in FEATURES if counts[f] < 5} == {}


def test_command_writes_a_model(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    subprocess.run(
        [sys.executable, "-m", "tests.laws.generator", "3", str(target)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert onnx.load(target).SerializeToString() == generate(3).model.SerializeToString()
