"""What a run leaves: the plan, the stamp, the report, and warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxprune
from onnxprune import PruneSettings
from onnxprune.data.read import Calibration, read_calibration
from onnxprune.pipeline.report import calibration_report, cautions, stamped
from onnxprune.recovery.repair import Recovery
from onnxprune.reports.data import CalibrationReport
from tests.unit.recovery.examples import dense

SETTINGS = PruneSettings(ratio=0.5, align=1, bench=False)


def test_the_report_tells_what_was_asked_and_kept() -> None:
    report = onnxprune.prune(dense(), replace(SETTINGS, ratio=0.4)).report
    assert [(g.channels, g.asked, g.kept) for g in report.groups] == [(12, 8, 8)] * 2
    assert (report.before.params, report.after.params) == (279, 8 * 6 + 8 + 64 + 8 + 8 * 3 + 3)
    assert [layer.after for layer in report.layers] == [6 * 8, 8 * 8, 8 * 3]
    assert report.settings["align"] == 1


def test_with_limits_all_channels_were_to_stay() -> None:
    report = onnxprune.prune(dense(), replace(SETTINGS, ratio=None, targets={"params": 0.5})).report
    assert all(g.asked == g.channels for g in report.groups)
    assert report.targets["params"].reached <= report.targets["params"].limit


def test_a_model_is_stamped_once() -> None:
    result = onnxprune.prune(dense(), SETTINGS)
    again = stamped(
        stamped(onnx.ModelProto.FromString(result.model.SerializeToString()), result.plan), result.plan
    )
    marks = {p.key: p.value for p in again.metadata_props}
    assert len(marks) == len(again.metadata_props) == 3
    assert marks["onnxprune.plan_sha256"] == result.plan.sha256
    assert marks["onnxprune.version"] == onnxprune.__version__


def test_weights_among_the_inputs_are_warned_of() -> None:
    model = dense()
    for name, shape in (("w", [6, 12]), ("d", [3])):
        model.graph.input.append(helper.make_tensor_value_info(name, 1, shape))
    (warning,) = [w for w in onnxprune.prune(model, SETTINGS).report.warnings if "listed among" in w]
    assert warning.startswith("1 weights that are listed among the inputs have new shapes, the first 'w'")


@pytest.mark.parametrize(
    ("synthesised", "samples", "count"), [("", 40, 0), ("balanced", 40, 1), ("", 4, 1), ("balanced", 4, 2)]
)
def test_data_that_is_made_up_or_does_not_fit_is_warned_of(
    synthesised: str, samples: int, count: int
) -> None:
    repair = Recovery(dense(), dense(), "refit", samples, 1.0, 0.5)
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    data = replace(read_calibration({"x": rows}, dense()), synthesised=synthesised)
    assert len(cautions(dense(), data, repair)) == count


def test_calibration_data_says_where_it_comes_from() -> None:
    assert calibration_report(Calibration((), 12)) == CalibrationReport("given", 12, None)
    made = calibration_report(Calibration((), 12, "matched to 3 BatchNormalizations"))
    assert made == CalibrationReport("synthesised", 12, "matched to 3 BatchNormalizations")
