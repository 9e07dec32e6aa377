"""Attention and its relatives as exporters and optimisers write them: run, cut to half, proved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import PruneSettings
from onnxprune.errors import NothingToPrune
from tests.laws.attention_forms import FORMS, C, Net, T
from tests.laws.counting import count_params

WHOLE = {"efficient_channel_attention": "Conv mixes neighbours along this axis"}
KEPT = {
    # The share of the parameters that stays at ratio 0.5, by head dimension and by whole heads.
    "one_key_head": (0.51, 0.76),
    "partial_rotary": (0.57, 0.57),
    "softmax_over_channels": (0.76, 0.51),  # K and Q are bound to V by heads only
    "cross_covariance": (0.76, 0.51),
    "cached_keys_and_values": (0.68, 0.68),  # the heads of Q, by two
    "grouped_queries_with_a_cache": (0.68, 0.68),
    "squeeze_and_excite": (0.42, 0.42),
    "convolutional_block_attention": (0.43, 0.43),
    "shifted_windows": (0.35, 0.32),
    "experts_as_rows": (0.28, 0.28),
    "tied_embeddings": (0.32, 0.32),
}
USUAL = (0.53, 0.53)


def cut(model: onnx.ModelProto, granularity: str) -> float:
    """Prune half of every group; return the share of parameters that stays."""
    settings = PruneSettings(ratio=0.5, align=1, bench=False, granularity=granularity)
    result = onnxprune.prune(model, settings)
    assert result.report.verification.status in ("proved", "weak")
    assert not result.report.dropped
    return count_params(result.model) / count_params(model)


@pytest.mark.parametrize("build", FORMS.values(), ids=FORMS)
@pytest.mark.slow
def test_form_is_cut_and_proved(build: Callable[[], onnx.ModelProto]) -> None:
    name = build.__name__
    if name in WHOLE:
        with pytest.raises(NothingToPrune, match=WHOLE[name]):
            cut(build(), "finest")
        return
    fine, rows = KEPT.get(name, USUAL)
    assert cut(build(), "finest") <= fine
    if rows is not None:
        assert cut(build(), "rows") <= rows


def test_the_scale_of_attention_in_one_node_stays_what_it_was() -> None:
    model = FORMS["packed_weight_in_one_node"]()
    result = onnxprune.prune(model, PruneSettings(ratio=0.5, align=1, bench=False))
    node = next(n for n in result.model.graph.node if n.op_type == "Attention")
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attrs["num_heads"] == 4
    assert np.isclose(attrs["scale"], 8**-0.5)


def grouped_with_small_heads(heads: int, key_heads: int, dim: int) -> onnx.ModelProto:
    """Llama's attention: rotary tables of all heads, few heads of K and V, repeated by Gather."""
    net = Net()
    angles = np.arange(T)[:, None] * np.tile(0.1 ** np.arange(dim // 2), 2)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def rotated(x: str) -> str:
        first, second = net("Slice", x, [0], [dim // 2], [3]), net("Slice", x, [dim // 2], [dim], [3])
        turned = net("Concat", net("Neg", second), first, axis=3)
        return net("Add", net("Mul", x, tables[0]), net("Mul", turned, tables[1]))

    def repeated(x: str) -> str:
        return net("Gather", x, np.repeat(np.arange(key_heads), heads // key_heads), axis=1)

    q, k, v = (net.heads(net("MatMul", "x", (C, n * dim)), n) for n in (heads, key_heads, key_heads))
    made = net.attend(rotated(q), repeated(rotated(k)), repeated(v))
    flat = net("Reshape", net("Transpose", made, perm=[0, 2, 1, 3]), [0, T, -1])
    return net.model(net("MatMul", flat, (heads * dim, C)))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("sizes", [(4, 2, 4), (4, 2, 6), (8, 2, 8), (4, 4, 4)])
def test_no_group_loses_more_than_was_asked(sizes: tuple[int, int, int], ratio: float) -> None:
    """The cheapest dimensions of two small heads may be those of one, whose death takes all its others."""
    settings = PruneSettings(ratio=ratio, align=1, bench=False)
    result = onnxprune.prune(grouped_with_small_heads(*sizes), settings)
    assert result.report.verification.status == "proved"
    sized = [(g.channels, g.asked, g.kept) for g in result.report.groups]
    assert all(asked <= kept for _, asked, kept in sized), sized
    assert any(kept < channels for channels, _, kept in sized)
