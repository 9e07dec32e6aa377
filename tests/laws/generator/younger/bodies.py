"""If nodes: branches with layers, chosen by the data or a flag, and those that a rank or a size decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from .. import ops
from ..activations import act
from ..core import Net, T, root
from ..gates import pooled
from ..linears import mix
from ..table import block

Build = Callable[[Net], list[T]]


@dataclass(frozen=True)
class Body:
    """A branch, and what it returns."""

    graph: object
    results: list[T]


def body_of(net: Net, build: Build, name: str) -> Body:
    """Build nodes into a body; the parameters that are new go into it, or stay outside."""
    before = net.nodes, net.zeros, net.plain_split
    known = set(net.params)
    net.nodes, net.zeros = [], {}
    results = build(net)
    own = {node.output[0] for node in net.nodes}
    results = [t if t.name in own else net.apply("Identity", t) for t in results]
    inside = net.nodes
    net.nodes, net.zeros, net.plain_split = before
    new = [param for param in net.params if param not in known]
    moved = new if net.chance(0.7) and net.style.ir_version > 3 else []  # then all are inputs of the graph
    if new and not moved:
        net.note("if_branches.outer_weights")
    stored = [numpy_helper.from_array(net.params.pop(param), param) for param in moved]
    infos = [_info(t) for t in results]
    return Body(helper.make_graph(inside, name, [], infos, stored), results)


def _info(t: T) -> ValueInfoProto:
    return helper.make_tensor_value_info(t.name, TensorProto.FLOAT, None)


def chosen(net: Net, condition: str, build: tuple[Build, Build]) -> list[T]:
    """An If with these branches; sizes are those of the first one's results."""
    bodies = [body_of(net, b, n) for b, n in zip(build, ("then", "else"), strict=True)]
    names = net.multi(
        "If", [condition], len(bodies[0].results), then_branch=bodies[0].graph, else_branch=bodies[1].graph
    )
    return [
        net.out(name, a, std=max(a.std, b.std), mean=0.5 * (a.mean + b.mean), even=a.even or b.even)
        for name, a, b in zip(names, *(body.results for body in bodies), strict=True)
    ]


def condition(net: Net) -> str:
    """A bool that differs between inputs: a flag, a number of an input, or a reduction of the data."""
    kind = net.pick(["flag", "element", "data"])
    net.note(f"if_branches.{kind}")
    if kind == "flag":
        if not net.flags or net.chance(0.3):
            net.flags.append(f"flag_{len(net.flags)}" if net.style.names != "numeric" else net.fresh("flag"))
        return str(net.pick(net.flags))
    x = net.pick(net.inputs)
    if kind == "element":
        flat = net.node("Reshape", [x, net.ints([-1])])
        first = net.node("Gather", [flat, net.exact(np.int64(0), "index")], axis=0)
    else:
        first = net.node("ReduceMean", [x], keepdims=0)
    return net.node(net.pick(["Greater", "Less"]), [first, net.param(0.0, "threshold")])


def layers(x: T, out: int, many: int) -> Build:
    """Some layers to a width; none pass the tensor on as it is."""

    def build(net: Net) -> list[T]:
        y = x
        for i in range(many):
            last = i == many - 1
            y = mix(net, y, out if last else net.width())
            y = y if last and net.chance(0.5) else act(net, y)
        return [y if many else act(net, y) if net.chance(0.5) else y]

    return build


@block("map seq vec", weight=7, draw="structures", notes=(
    "if_branches.flag", "if_branches.element", "if_branches.data", "if_branches.outer_weights",
    "if_branches.passed_on", "if_branches.two_results", "if_branches.nested", "if_branches.tied",
))  # fmt: skip
def if_branches(net: Net, x: T) -> T | list[T] | None:
    """Both branches hold layers and return one size; one of them may pass its tensor on."""
    if x.c < 4:
        return None
    chooser = condition(net)
    out, plain = net.width(), False
    if net.chance(0.3):
        net.note("if_branches.passed_on")
        out, plain = x.c, True
    sides: list[Build] = [
        layers(x, out, net.between(1, 3)),
        layers(x, out, 0 if plain else net.between(1, 2)),
    ]
    if net.chance(0.5):
        sides.reverse()
    if net.chance(0.2):
        net.note("if_branches.two_results")
        sides = [_both(side, layers(x, x.c, 1)) for side in sides]
    elif net.chance(0.2):
        net.note("if_branches.nested")
        inner = condition(net)
        other = layers(x, out, 1)
        first = sides[0]
        sides[0] = lambda n: chosen(n, inner, (first, other))
    results = chosen(net, chooser, (sides[0], sides[1]))
    if len(results) == 1 and net.chance(0.3):
        net.note("if_branches.tied")
        y = mix(net, x, out)
        return net.out(net.node("Add", [results[0], y]), y, std=root(results[0].std, y.std))
    return results


def _both(left: Build, right: Build) -> Build:
    return lambda net: [*left(net), *right(net)]


@block("map", weight=4, since=11, draw="structures", notes=("if_decided.rank", "if_decided.size"))
def if_decided(net: Net, x: T) -> T | None:
    """What torch.squeeze exports: an If asks for a rank or a size that never changes."""
    if x.c < 4:
        return None
    y = pooled(net, x, True)
    sizes = net.node("Shape", [y])
    if net.chance(0.5):
        net.note("if_decided.rank")
        asked, expected = net.node("Size", [sizes]), x.rank
    else:
        net.note("if_decided.size")
        asked, expected = net.node("Gather", [sizes, net.exact(np.int64(2), "index")], axis=0), 1
    right = net.chance(0.7)
    chooser = net.node("Equal", [asked, net.exact(np.int64(expected if right else expected + 1), "expected")])
    squeezed: Build = lambda n: [ops.squeeze(n, y, list(range(2, y.rank)), "vec")]  # noqa: E731
    passed: Build = lambda n: [n.apply("Identity", y)]  # noqa: E731
    pair = (squeezed, passed) if right else (passed, squeezed)
    names = [body_of(net, b, n) for b, n in zip(pair, ("then", "else"), strict=True)]
    name = net.node("If", [chooser], then_branch=names[0].graph, else_branch=names[1].graph)
    result = names[0 if right else 1].results[0]
    return result.but(name=name)
