"""What carries a state along a sequence: causal convolutions, linear attention, caches; and experts.

Letters of linear attention: b batch, t places, h heads of K and V, r heads of Q per head of K and V, d the
head dimension of Q and K, which the state sums over, e that of V.

Those that onnxruntime's CPU provider has kernels of; ONNX's own LinearAttention and CausalConvWithState are
functions to it, which it does not run with optimisation off.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for the domain
com.microsoft, https://onnx.ai/onnx/operators/onnx__TensorScatter.html. Linear attention: Katharopoulos et
al. 2020, arXiv:2006.16236; experts: Shazeer et al. 2017, arXiv:1701.06538.
"""

from __future__ import annotations

from onnxprune.rules.attention import resized
from onnxprune.rules.registry import rule
from onnxprune.rules.signature import (
    Axes,
    Axis,
    Pinned,
    Shape,
    Signature,
    Site,
    Verdict,
    named,
    numbered,
    packed,
    positive,
)

MICROSOFT = "com.microsoft"
ALONG = "{} carries a state along this axis"


@rule("CausalConvWithState", domain=MICROSOFT)
def causal_convolution(site: Site) -> Verdict:
    """Each channel is convolved by itself: weight [C, 1, k], bias [C] and state [B, C, k - 1] go with it."""
    if len(site.shape()) != 3:
        return Pinned(f"{site.op} over more than one axis")
    data, kernel = named(site.shape(), "bct"), named(site.shape(1), ["c", "one", "k"])
    bias = (kernel[0],) if site.has(2) else None
    past = named(site.shape(3), "bcp") if site.has(3) else None
    state = [named(shape, "bcq") if shape is not None else None for shape in site.outputs[1:2]]
    return Signature(
        (data, kernel, bias, past)[: len(site.inputs)],
        (data, *state),
        pins=dict.fromkeys(("t", "p"), ALONG.format(site.op)) | {"k": ""},
        macs=("b", "c", "t", "k"),
    )


@rule("LinearAttention", domain=MICROSOFT)
def linear_attention(site: Site) -> Verdict:
    """Heads pass, a head of K and V with its heads of Q; the scale stays where the head dimension goes."""
    heads, groups = (int(site.attrs.get(f"{side}_num_heads", 0)) for side in ("q", "kv"))
    q, k, v = site.shape(0), site.shape(1), site.shape(2)
    if not heads or not groups or heads % groups or len(q) != 3 or k[2] % groups or v[2] % groups:
        return Pinned(f"{site.op} whose heads do not fit its inputs")
    sizes = {"h": groups, "r": heads // groups, "d": k[2] // groups, "e": v[2] // groups}
    many, few = packed(h=groups, r=sizes["r"]), packed(h=groups)
    dim, out = packed(d=sizes["d"]), packed(e=sizes["e"])
    if q[2] != heads * sizes["d"]:
        return Pinned(f"{site.op} whose heads do not fit its inputs")
    state = (_one(q[0], "b"), few, dim, out)
    inputs: list[Axes | None] = [
        _rows(q, many + dim),
        _rows(k, few + dim),
        _rows(v, few + out),
        state if site.has(3) else None,
        _rows(site.shape(4), few + dim if site.shape(4)[2] == k[2] else few) if site.has(4) else None,
        _rows(site.shape(5), few if site.shape(5)[2] > 1 else ()) if site.has(5) else None,
    ]
    return Signature(
        tuple(inputs[: len(site.inputs)]),
        tuple(axes for axes, _ in zip((_rows(q, many + out), state), site.outputs, strict=False)),
        sizes=sizes,
        pins={"t": ALONG.format(site.op)},
        inner=frozenset("d"),
        macs=("b", "t", "h", "d", "e"),
        more_macs=(("b", "t", "h", "r", "d", "e"),),
        repair=resized({"q_num_heads": many, "kv_num_heads": few}, dim, sizes["d"]),
    )


def _one(size: int, subscript: str) -> Axis:
    return (subscript,) if size > 1 else ()


def _rows(shape: Shape, channels: Axis) -> Axes:
    return _one(shape[0], "b"), _one(shape[1], "t"), channels


@rule("TensorScatter", since=24)
def tensor_scatter(site: Site) -> Verdict:
    """Writes into a cache: its axes pass but for the one that holds places."""
    cache = numbered(site.shape())
    axis = positive(int(site.attrs.get("axis", -2)), len(cache))
    update = numbered(site.shape(1))
    places = named(site.shape(1)[axis : axis + 1], ["new"])
    pins = dict.fromkeys((*cache[axis], "new"), f"{site.op} writes to places along this axis")
    batch = (cache[0],) if site.has(2) else None
    inputs = (cache, (*update[:axis], *places, *update[axis + 1 :]), batch)
    return Signature(inputs[: len(site.inputs)], (cache,), pins=pins)


@rule("MoE", domain=MICROSOFT)
def experts(site: Site) -> Verdict:
    """Sums over the channels of its input in every expert, and makes as many, which go with these.

    Weights are [experts, inner, channels] and [experts, channels, inner]; experts and inner axis stay.
    """
    shape, first, second = site.shape(), site.shape(2), site.shape(4)
    if not first[2] == second[1] == shape[-1] == site.out()[-1]:
        return Pinned("MoE whose weights are laid out in another way")
    axes = numbered(shape)
    inward = named(first[:2], ["expert", "wide"]), named(second[::2], ["expert", "inner"])
    third = named(site.shape(6)[:2], ["expert", "third"]) if site.has(6) else ()
    inputs: tuple[Axes, ...] = (
        axes,
        (tuple(x for axis in axes[:-1] for x in axis), *named(site.shape(1)[1:], ["expert"])),
        (*inward[0], axes[-1]),
        inward[0],
        (inward[1][0], axes[-1], inward[1][1]),
        (inward[1][0], axes[-1]),
        (*third, axes[-1]),
        third,
    )
    pins = {"expert": "MoE routes by this axis"}
    pins |= dict.fromkeys(("wide", "inner", "third"), "MoE sums over this axis inside itself")
    rows = tuple(x for axis in axes[:-1] for x in axis)
    return Signature(
        tuple(axes if site.has(i) else None for i, axes in enumerate(inputs[: len(site.inputs)])),
        (axes,),
        pins=pins,
        inner=frozenset(axes[-1]),
        macs=(*rows, *axes[-1], "wide"),
        more_macs=((*rows, *axes[-1], "inner"),),
    )
