"""Forms in which attention and its relatives are exported, each as a small whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

B, T, C, H, D = 2, 6, 16, 4, 8
E = H * D
MICROSOFT = "com.microsoft"


class Net:
    """Collects the nodes and weights of a small model; a call adds a node and returns its output."""

    def __init__(self, opset: int = 17, dims: Sequence[int | str] = (B, T, C)) -> None:
        self.rng = np.random.default_rng(0)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        names = [x if isinstance(x, str) else self.store(x) for x in inputs]
        made = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(op, names, made, f"{op}_{len(self.nodes)}", domain=domain, **attrs)
        )
        return made[0] if outputs == 1 else made

    def store(self, value: Any) -> str:
        """Store a list of integers, an array, or random numbers of a shape given as a tuple."""
        if isinstance(value, tuple):
            value = self.rng.standard_normal(value) / np.sqrt(max(value[0], 4))
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def feed(self, name: str, dims: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def linear(self, x: str, before: int, after: int) -> str:
        return self("Add", self("MatMul", x, (before, after)), (after,))

    def heads(self, x: str, heads: int = H, tokens: int = T) -> str:
        """Turn [B, T, heads x dim] into [B, heads, T, dim]."""
        return self("Transpose", self("Reshape", x, [0, tokens, heads, -1]), perm=[0, 2, 1, 3])

    def qkv(self, x: str = "x") -> list[str]:
        return [self.heads(self.linear(x, C, E)) for _ in range(3)]

    def attend(self, q: str, k: str, v: str, *added: str) -> str:
        scores = self("Mul", self("MatMul", q, self("Transpose", k, perm=[0, 1, 3, 2])), np.float32(0.35))
        for term in added:
            scores = self("Add", scores, term)
        return self("MatMul", self("Softmax", scores, axis=-1), v)

    def joined(self, x: str, tokens: int = T) -> str:
        """Turn [B, H, T, D] back and project to C."""
        flat = self("Reshape", self("Transpose", x, perm=[0, 2, 1, 3]), [0, tokens, -1])
        return self.linear(flat, E, C)

    def model(self, out: str, dims: Sequence[int | str] | None = None) -> onnx.ModelProto:
        result = helper.make_tensor_value_info(out, TensorProto.FLOAT, dims)
        graph = helper.make_graph(self.nodes, "attention", self.inputs, [result], self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {}


def form(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    FORMS[build.__name__] = build
    return build


def _grouped(repeat: Callable[[Net, str], str]) -> onnx.ModelProto:
    """Two heads of K and V for four of Q."""
    net = Net()
    q = net.heads(net.linear("x", C, E))
    k, v = (repeat(net, net.heads(net.linear("x", C, 2 * D), heads=2)) for _ in range(2))
    return net.model(net.joined(net.attend(q, k, v)))


@form
def grouped_by_expand() -> onnx.ModelProto:
    def repeat(net: Net, x: str) -> str:
        wide = net("Expand", net("Unsqueeze", x, [2]), [B, 2, 2, T, D])
        return net("Reshape", wide, [B, H, T, D])

    return _grouped(repeat)


@form
def grouped_by_tile() -> onnx.ModelProto:
    def repeat(net: Net, x: str) -> str:
        return net("Reshape", net("Tile", net("Unsqueeze", x, [2]), [1, 1, 2, 1, 1]), [B, H, T, D])

    return _grouped(repeat)


@form
def grouped_by_concat() -> onnx.ModelProto:
    def repeat(net: Net, x: str) -> str:
        one = net("Unsqueeze", x, [2])
        return net("Reshape", net("Concat", one, one, axis=2), [0, -1, T, D])

    return _grouped(repeat)


@form
def grouped_by_gather() -> onnx.ModelProto:
    return _grouped(lambda net, x: net("Gather", x, [0, 0, 1, 1], axis=1))


@form
def one_key_head() -> onnx.ModelProto:
    net = Net()
    q = net.heads(net.linear("x", C, E))
    k, v = (net("Unsqueeze", net.linear("x", C, D), [1]) for _ in range(2))
    return net.model(net.joined(net.attend(q, k, v)))


@form
def partial_rotary() -> onnx.ModelProto:
    net = Net()
    angles = np.arange(T)[:, None] * np.asarray([1.0, 0.1])
    cos, sin = (np.tile(f(angles), 2)[None, None].astype(np.float32) for f in (np.cos, np.sin))

    def rotated(x: str) -> str:
        turned, rest = net("Split", x, [4, 4], outputs=2, axis=-1)
        first, second = net("Split", turned, [2, 2], outputs=2, axis=-1)
        half = net("Concat", net("Neg", second), first, axis=-1)
        turned = net("Add", net("Mul", turned, cos), net("Mul", half, sin))
        return net("Concat", turned, rest, axis=-1)

    q, k, v = net.qkv()
    return net.model(net.joined(net.attend(rotated(q), rotated(k), v)))


@form
def relative_by_skewing() -> onnx.ModelProto:
    net = Net()
    q, k, v = net.qkv()
    table = net("MatMul", q, (H, D, T))
    padded = net("Pad", table, [0, 0, 0, 1, 0, 0, 0, 0])
    skewed = net("Slice", net("Reshape", padded, [B, -1, T + 1, T]), [1], [T + 1], [2])
    return net.model(net.joined(net.attend(q, k, v, skewed)))


@form
def bias_from_a_table() -> onnx.ModelProto:
    net = Net()
    places = (np.arange(T)[:, None] - np.arange(T)[None]) + T - 1
    bias = net("Unsqueeze", net("Transpose", net("Gather", (2 * T - 1, H), places), perm=[2, 0, 1]), [0])
    return net.model(net.joined(net.attend(*net.qkv(), bias)))


@form
def class_attention() -> onnx.ModelProto:
    net = Net()
    q = net.heads(net.linear(net("Slice", "x", [0], [1], [1]), C, E), tokens=1)
    k, v = (net.heads(net.linear("x", C, E)) for _ in range(2))
    return net.model(net.joined(net.attend(q, k, v), tokens=1))


@form
def talking_heads() -> onnx.ModelProto:
    net = Net()
    q, k, v = net.qkv()
    logits = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net("MatMul", net("Transpose", logits, perm=[0, 2, 3, 1]), (H, H))
    scores = net("Softmax", net("Transpose", mixed, perm=[0, 3, 1, 2]), axis=-1)
    mixed = net("MatMul", net("Transpose", scores, perm=[0, 2, 3, 1]), (H, H))
    return net.model(net.joined(net("MatMul", net("Transpose", mixed, perm=[0, 3, 1, 2]), v)))


@form
def linear_attention() -> onnx.ModelProto:
    """A kernel feature map: no Softmax; keys meet values first (arXiv:2006.16236)."""
    net = Net()
    q, k, v = net.qkv()
    q, k = (net("Add", net("Elu", a), np.float32(1)) for a in (q, k))
    state = net("MatMul", net("Transpose", k, perm=[0, 1, 3, 2]), v)
    total = net("Unsqueeze", net("ReduceSum", k, [2], keepdims=0), [3])
    return net.model(net.joined(net("Div", net("MatMul", q, state), net("MatMul", q, total))))


@form
def softmax_over_channels() -> onnx.ModelProto:
    """Efficient attention: Q's Softmax over its channels, K's over the tokens (arXiv:1812.01243)."""
    net = Net()
    q, k, v = net.qkv()
    state = net("MatMul", net("Transpose", net("Softmax", k, axis=2), perm=[0, 1, 3, 2]), v)
    return net.model(net.joined(net("MatMul", net("Softmax", q, axis=3), state)))


@form
def cross_covariance() -> onnx.ModelProto:
    """XCiT: channels attend to channels (arXiv:2106.09681)."""
    net = Net()
    q, k, v = (net("Transpose", a, perm=[0, 1, 3, 2]) for a in net.qkv())
    q, k = (net("Div", a, net("ReduceL2", a, axes=[3], keepdims=1)) for a in (q, k))
    scores = net("Mul", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), (H, 1, 1))
    made = net("MatMul", net("Softmax", scores, axis=-1), v)
    flat = net("Reshape", net("Transpose", made, perm=[0, 3, 1, 2]), [0, T, -1])
    return net.model(net.linear(flat, E, C))


def _image(gate: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net(dims=(B, 3, 8, 8))
    x = net("Relu", net("Conv", "x", (32, 3, 3, 3), (32,), pads=[1, 1, 1, 1]))
    return net.model(net("Conv", gate(net, x), (4, 32, 1, 1)))


@form
def squeeze_and_excite() -> onnx.ModelProto:
    def gate(net: Net, x: str) -> str:
        small = net("Relu", net("Conv", net("GlobalAveragePool", x), (8, 32, 1, 1), (8,)))
        return net("Mul", x, net("Sigmoid", net("Conv", small, (32, 8, 1, 1), (32,))))

    return _image(gate)


@form
def convolutional_block_attention() -> onnx.ModelProto:
    """CBAM: a gate per channel from mean and maximum, then one per place (arXiv:1807.06521)."""

    def gate(net: Net, x: str) -> str:
        first, second = net.store((8, 32, 1, 1)), net.store((32, 8, 1, 1))
        pooled = (net(op, x) for op in ("GlobalAveragePool", "GlobalMaxPool"))
        both = [net("Conv", net("Relu", net("Conv", p, first)), second) for p in pooled]
        x = net("Mul", x, net("Sigmoid", net("Add", *both)))
        seen = [net(op, x, axes=[1], keepdims=1) for op in ("ReduceMean", "ReduceMax")]
        places = net("Conv", net("Concat", *seen, axis=1), (1, 2, 3, 3), pads=[1, 1, 1, 1])
        return net("Mul", x, net("Sigmoid", places))

    return _image(gate)


@form
def efficient_channel_attention() -> onnx.ModelProto:
    """ECA: a 1-D Conv over the channels (arXiv:1910.03151)."""

    def gate(net: Net, x: str) -> str:
        row = net("Reshape", net("GlobalAveragePool", x), [0, 1, 32])
        row = net("Conv", row, (1, 1, 3), pads=[1, 1])
        return net("Mul", x, net("Sigmoid", net("Reshape", row, [0, 32, 1, 1])))

    return _image(gate)


@form
def shifted_windows() -> onnx.ModelProto:
    """Swin: windows of 4 x 4 on 8 x 8, rolled by 2, with a bias from a table (arXiv:2103.14030)."""
    net = Net(dims=(1, 8, 8, C))

    def rolled(x: str, by: int) -> str:
        for axis in (1, 2):
            parts = net("Slice", x, [by], [99], [axis]), net("Slice", x, [0], [by], [axis])
            x = net("Concat", *parts, axis=axis)
        return x

    x = net.linear("x", C, C)
    windows = net("Reshape", rolled(x, 2), [1, 2, 4, 2, 4, C])
    windows = net("Reshape", net("Transpose", windows, perm=[0, 1, 3, 2, 4, 5]), [4, 16, C])
    joint = net("Reshape", net.linear(windows, C, 3 * E), [4, 16, 3, H, D])
    parts = net("Transpose", joint, perm=[2, 0, 3, 1, 4])
    q, k, v = (net("Gather", parts, np.asarray(i), axis=0) for i in range(3))
    places = net.rng.integers(0, 49, 256)
    bias = net("Reshape", net("Gather", (49, H), places), [16, 16, -1])
    bias = net("Unsqueeze", net("Transpose", bias, perm=[2, 0, 1]), [0])
    made = net.joined(net.attend(q, k, v, bias), tokens=16)
    made = net("Transpose", net("Reshape", made, [1, 2, 2, 4, 4, C]), perm=[0, 1, 3, 2, 4, 5])
    made = rolled(net("Reshape", made, [1, 8, 8, C]), 6)
    return net.model(net.linear(net("Add", x, made), C, 4))


@form
def cross_attention() -> onnx.ModelProto:
    net = Net()
    memory = net.feed("memory", (B, 9, 12))
    q = net.heads(net.linear("x", C, E))
    k, v = (net.heads(net.linear(memory, 12, E), tokens=9) for _ in range(2))
    return net.model(net.joined(net.attend(q, k, v)))


def _packed(order: Sequence[int], axis: int, perm: Sequence[int]) -> onnx.ModelProto:
    net = Net()
    joint = net("Reshape", net.linear("x", C, 3 * E), [0, T, *order])
    parts = net("Split", joint, [1, 1, 1], outputs=3, axis=axis)
    q, k, v = (net("Transpose", net("Squeeze", p, [axis]), perm=perm) for p in parts)
    return net.model(net.joined(net.attend(q, k, v)))


@form
def packed_three_heads_dim() -> onnx.ModelProto:
    return _packed((3, H, D), 2, (0, 2, 1, 3))


@form
def packed_heads_three_dim() -> onnx.ModelProto:
    return _packed((H, 3, D), 3, (0, 2, 1, 3))


@form
def packed_heads_dim_three() -> onnx.ModelProto:
    return _packed((H, D, 3), 4, (0, 2, 1, 3))


@form
def mask_of_dynamic_length() -> onnx.ModelProto:
    net = Net(dims=("batch", "tokens", C))
    mask = net.feed("mask", ("batch", "tokens"), TensorProto.INT64)
    seen = net("Cast", net("Unsqueeze", mask, [1, 2]), to=TensorProto.FLOAT)
    low = net("Mul", net("Sub", np.float32(1), seen), np.float32(-1e4))
    parts = []
    for _ in range(3):
        wide = net("Reshape", net.linear("x", C, E), [0, -1, H, D])
        parts.append(net("Transpose", wide, perm=[0, 2, 1, 3]))
    made = net("Transpose", net.attend(*parts, low), perm=[0, 2, 1, 3])
    return net.model(net.linear(net("Reshape", made, [0, -1, E]), E, C))


@form
def cached_keys_and_values() -> onnx.ModelProto:
    """Two heads of K and V with a cache, which is fixed; four heads of Q."""
    net = Net()
    q = net("Reshape", net.heads(net.linear("x", C, E)), [B, 2, 2 * T, D])
    k, v = (
        net("Concat", net.feed(f"past_{i}", (B, 2, 3, D)), net.heads(net.linear("x", C, 2 * D), 2), axis=2)
        for i in range(2)
    )
    made = net("Reshape", net.attend(q, k, v), [B, H, T, D])
    return net.model(net.joined(made))


@form
def experts_as_rows() -> onnx.ModelProto:
    """A dense mixture of four experts: every expert is a row of the stacked weights."""
    net = Net()
    x = net.linear("x", C, C)
    gate = net("Softmax", net("MatMul", x, (C, 4)), axis=-1)
    up = net("Relu", net("Einsum", x, (4, C, 32), equation="btc,ecf->btef"))
    down = net("Einsum", up, (4, 32, C), equation="btef,efc->btec")
    mixed = net("ReduceSum", net("Mul", down, net("Unsqueeze", gate, [3])), [2], keepdims=0)
    return net.model(net.linear(net("Add", x, mixed), C, 4))


@form
def tied_embeddings() -> onnx.ModelProto:
    net = Net(dims=(B, T, 1))
    ids = net.feed("ids", (B, T), TensorProto.INT64)
    table = net.store((20, C))
    x = net("Gather", table, ids)
    x = net("Add", x, net.linear(net("Relu", net.linear(x, C, 32)), 32, C))
    logits = net("MatMul", x, net("Transpose", table, perm=[1, 0]))
    return net.model(net("Add", logits, net("Mul", "x", np.float32(1))))


@form
def bag_of_embeddings() -> onnx.ModelProto:
    net = Net(dims=(B, 1))
    ids = net.feed("ids", (B, T), TensorProto.INT64)
    bag = net("ReduceSum", net("Gather", (20, 32), ids), [1], keepdims=0)
    return net.model(net("Add", net.linear(bag, 32, 4), "x"))


def _in_one_node(attend: Callable[[Net], str], opset: int = 17) -> onnx.ModelProto:
    net = Net(opset)
    return net.model(net.linear(attend(net), E, C))


@form
def packed_weight_in_one_node() -> onnx.ModelProto:
    return _in_one_node(
        lambda net: net("Attention", "x", (C, 3 * E), (3 * E,), domain=MICROSOFT, num_heads=H)
    )


@form
def multi_head_in_one_node() -> onnx.ModelProto:
    def attend(net: Net) -> str:
        q, k, v = (net("MatMul", "x", (C, E)) for _ in range(3))
        return net("MultiHeadAttention", q, k, v, (3 * E,), domain=MICROSOFT, num_heads=H)

    return _in_one_node(attend)


@form
def grouped_in_one_node() -> onnx.ModelProto:
    def attend(net: Net) -> str:
        q, k, v = net.linear("x", C, E), net.linear("x", C, 2 * D), net.linear("x", C, 2 * D)
        return net("Attention", q, k, v, q_num_heads=H, kv_num_heads=2)

    return _in_one_node(attend, 23)


@form
def grouped_queries_with_a_cache() -> onnx.ModelProto:
    """The cache fixes the heads of K and V; of the heads of Q that read one of them half may go."""
    net = Net(dims=(1, 4, C))
    size, total = 16, 7
    q, k, v = (net.linear("x", C, heads * size) for heads in (4, 2, 2))
    past = [net.feed(name, (1, 2, 3, size)) for name in ("past_key", "past_value")]
    places = np.asarray([total - 1], np.int32), np.asarray(total, np.int32)
    heads = {"num_heads": 4, "kv_num_heads": 2}
    made = net("GroupQueryAttention", q, k, v, *past, *places, domain=MICROSOFT, outputs=3, **heads)
    model = net.model(net.linear(made[0], 4 * size, C))
    cache = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 2, total, size)) for n in made[1:]]
    model.graph.output.extend(cache)
    return model


@form
def rotary_in_one_node() -> onnx.ModelProto:
    def attend(net: Net) -> str:
        q, k, v = (net.linear("x", C, E) for _ in range(3))
        angles = np.broadcast_to(np.arange(T)[:, None] * 0.5 ** np.arange(D // 2), (B, T, D // 2))
        tables = [net.store(f(angles).astype(np.float32)) for f in (np.cos, np.sin)]
        q, k = (net("RotaryEmbedding", a, *tables, num_heads=H) for a in (q, k))
        return net("Attention", q, k, v, q_num_heads=H, kv_num_heads=H, is_causal=1)

    return _in_one_node(attend, 23)


@form
def skips_in_one_node() -> onnx.ModelProto:
    """A transformer block behind the transformer optimiser: embeddings, skips, an activation with a bias."""
    net = Net(dims=(B, 1, 1))
    ids = net.feed("ids", (B, T), TensorProto.INT32)
    tables = (20, C), (T, C), (2, C), (C,), (C,)
    kinds = net.store(np.zeros((B, T), np.int32))
    x = net("EmbedLayerNormalization", ids, kinds, *tables, domain=MICROSOFT, outputs=2)[0]
    made = net("Attention", x, (C, 3 * E), (3 * E,), domain=MICROSOFT, num_heads=H)
    made = net("MatMul", made, (E, C))
    skipped = net("SkipLayerNormalization", made, x, (C,), (C,), (C,), domain=MICROSOFT)
    wide = net("BiasGelu", net("MatMul", skipped, (C, 32)), (32,), domain=MICROSOFT)
    made = net("MatMul", wide, (32, C))
    last = net("SkipSimplifiedLayerNormalization", made, skipped, (C,), domain=MICROSOFT)
    return net.model(net("Add", net.linear(last, C, 4), "x"))
