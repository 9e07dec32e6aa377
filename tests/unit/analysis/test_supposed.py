"""What a rule says of a node alone: the same as at the true shapes, for all that a constant decides."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import helper

from onnxprune.analysis.supposed import supposed

CASES: dict[str, tuple[str, list[Any], dict[str, Any], int, set[str]]] = {
    "Conv": ("Conv", [None, (8, 3, 3, 3)], {"group": 4}, 1, {"c"}),
    "Conv of one channel": ("Conv", [None, (8, 1, 3, 3)], {}, 1, set()),
    "ConvTranspose of a fixed size": (
        "ConvTranspose",
        [None, (16, 4, 2, 2)],
        {"output_shape": [9, 9]},
        1,
        {"c"},
    ),
    "Gemm": ("Gemm", [None, (1, 64), (1,)], {"transB": 1}, 1, {"k"}),
    "MatMul": ("MatMul", [None, (64, 8)], {}, 1, {"k"}),
    "MatMul of one channel": ("MatMul", [None, (1, 8)], {}, 1, set()),
    "Einsum over two axes": ("Einsum", [None, (4, 6, 9)], {"equation": "bneh,ehd->bnd"}, 1, {"e", "h"}),
    "GRU with a state": (
        "GRU",
        [None, (2, 12, 8), (2, 12, 4), (2, 24), None, (2, 1, 4)],
        {"hidden_size": 4, "direction": "bidirectional"},
        1,
        {"i", "g"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_weight_says_what_is_summed_over(case: str) -> None:
    op, shapes, attributes, place, summed = CASES[case]
    names = [f"i{n}" if shape is not None or n == 0 else "" for n, shape in enumerate(shapes)]
    signature = supposed(helper.make_node(op, names, ["y"], **attributes), shapes, 17)
    assert signature is not None
    own = {x for axis in signature.inputs[place] or () for x in axis}
    taps = {"k0", "k1"} if op.startswith("Conv") else set()
    assert own & signature.ending_subscripts() - taps == summed


def test_what_nothing_is_known_of() -> None:
    assert supposed(helper.make_node("Own", ["x", "w"], ["y"], domain="own"), [None, (4, 4)], 17) is None
    assert supposed(helper.make_node("Conv", ["x", "w"], ["y"]), [None, None], 17) is None
    wrong = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=5)
    assert supposed(wrong, [None, (12, 3, 2, 2)], 17) is None
