"""Which nodes may be computed once and for all."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from onnxprune.rules.randomness import is_repeatable

BRANCH = helper.make_graph([], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])


@pytest.mark.parametrize(
    ("op", "domain", "attributes", "wanted"),
    [
        ("Mul", "", {}, True),
        ("Mul", "ai.onnx", {}, True),
        ("BatchNormalization", "", {"training_mode": 1}, True),
        ("Det", "", {}, True),
        ("Bernoulli", "", {}, False),
        ("Dropout", "", {}, False),
        ("Multinomial", "", {}, False),
        ("RandomNormalLike", "", {}, False),
        ("RandomUniformLike", "", {}, False),
        ("DequantizeLinear", "", {}, False),
        ("QuantizeLinear", "", {}, False),
        ("DynamicQuantizeLinear", "", {}, False),
        ("If", "", {"then_branch": BRANCH, "else_branch": BRANCH}, False),
        ("Mul", "custom", {}, False),
        ("Gelu", "com.microsoft", {}, False),
    ],
)
def test_a_node_that_computes_from_its_inputs_alone(
    op: str, domain: str, attributes: dict[str, object], wanted: bool
) -> None:
    node = helper.make_node(op, ["a"], ["y"], domain=domain, **attributes)
    assert is_repeatable(node, {"": 17, "com.microsoft": 1}) is wanted


def test_a_node_without_inputs_is_a_source_and_computes_nothing() -> None:
    assert not is_repeatable(helper.make_node("RandomNormal", [], ["y"], shape=[2]), {"": 17})
    assert not is_repeatable(helper.make_node("Constant", [], ["y"], value_float=1.0), {"": 17})
