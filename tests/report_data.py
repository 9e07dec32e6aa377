"""Reports, records and runs for tests, good and bad; and a reader of pages."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from onnxprune.evaluation.latency import BenchResult, BenchSettings, LatencyRatio, Timing
from onnxprune.evaluation.profile import OperatorTimes, SampledDrift, Spent
from onnxprune.oracle.prove import Verification
from onnxprune.reports.data import (
    Dropped,
    GroupReport,
    Layer,
    PinReport,
    PruneReport,
    Quantities,
    SourceFacts,
)
from onnxprune.reports.plain import versioned
from onnxprune.reports.record import STATUSES, Record, Run

HOSTILE = "<script>alert('x')</script>\"'&amp;\x1b[31m\u202egnp.exe\r\n\x00\ud800"
VOID = {"meta", "link", "input", "br", "wbr"}
PROOF = Verification("proved", 1e-6, 0.1, 3)
SETTINGS = {"ratio": 0.5, "ratios": [], "targets": {}, "criterion": "l2", "scope": "local", "align": 4}


def bench(before: float, ratio: float, cpu: str = "") -> BenchResult:
    """Make the timing of a pair of models; the interval is 2 % to either side."""
    first = Timing("m", 9, before, before, before, None)
    versus = LatencyRatio.of(ratio, ratio - 0.02, ratio + 0.02)
    second = replace(first, median_ms=before * ratio, versus_first=versus)
    return BenchResult((first, second), BenchSettings(), "1.20", cpu, {"x": (1, 3)})


def report(name: str = "conv", **given: Any) -> PruneReport:
    """Make a report of a model that kept half of its channels, with this name wherever there is one."""
    made = PruneReport(
        Quantities(1000, 2000, 4000), Quantities(500, 600, 2000), PROOF,
        (GroupReport("g0", name, 32, 16, 16, "any", name, 1),
         GroupReport("g1", name, 8, 4, 8, "rows", name, 0)),
        (Dropped("g1", name, f"differs at {name}"),), (PinReport(name, 0, name, "Conv", name, 8),), {},
        bench(10.0, 0.5), {"load": 0.1, "verify": 2.0}, {**SETTINGS, "exclude": [name]}, warnings=(name,),
        source=SourceFacts(f"{name}.onnx", "ab" * 32, 7, 17, {name: (1, 3)}),
        layers=(Layer(name, "Conv", 1, 2000, 600),),
        frozen_params=100, drift=SampledDrift(0.05, 8, "generated"),
        profile=OperatorTimes((Spent(name, 1.0, 0.5),), "P", 1),
    )  # fmt: skip
    return replace(made, **given)


def record(id_: str, status: str = "done", found: PruneReport | None = None, **given: Any) -> Record:
    """Make the record of a model."""
    good = status == "done"
    made = Record(
        id=id_, source=f"zoo/{id_}", status=status, exit_code=0 if good else 3,
        reason="" if good else f"why {id_}",
        input_sha256="cd" * 32, settings_sha256="ef" * 32, version="0.1.0", attempts=1, seconds=2.5,
        peak_bytes=300_000_000, log=f"logs/{id_}.log", output=f"models/{id_}" if good else None,
        settings={"ratio": 0.5}, report=None if found is None else versioned(found),
    )  # fmt: skip
    return replace(made, **given)


def run_of(*records: Record) -> Run:
    """Make a run of these records."""
    return Run(
        tuple(sorted(records, key=lambda r: r.id)), {"onnxprune": "0.1.0", "cores": 2}, {"jobs": 2}, 60.0
    )


def zoo() -> Run:
    """Make a run of every status, with hostile names among them."""
    bad = [
        record(f"bad/{status}", status, None if i % 2 else report()) for i, status in enumerate(STATUSES[1:])
    ]
    hostile = record(f"=1+1 {HOSTILE}", "crashed", report(HOSTILE), reason=HOSTILE, exit_code=None)
    return run_of(
        record("a/good.onnx", found=report()), record("b.onnx", found=report(bench=None)), hostile, *bad
    )


class Elements(HTMLParser):
    """Reads a page: elements with attributes, the text outside of scripts, whether tags are balanced."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.balanced = True
        self.feed(page.decode())
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of this name."""
        return [attributes for name, attributes in self.found if name == tag]


def harmless(page: bytes) -> Elements:
    """Check that a page runs nothing but its own script, asks nothing of a network, and shows no control."""
    text = page.decode()
    result = Elements(page)
    assert result.balanced
    assert len(result.all("script")) == 1
    (policy,) = [
        m["content"] or "" for m in result.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    for tag, attributes in result.found:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name) or ""
            assert ":" not in value or value.startswith("data:"), value
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in outside
    assert "https:" not in outside
    assert not [c for c in text if c != "\n" and not c.isprintable()]
    return result


def two_convs(name: str) -> onnx.ModelProto:
    """Make a small model whose nodes and tensors all hold this name."""
    rng = np.random.default_rng(0)
    weights = {f"w0 {name}": (16, 3, 3, 3), f"w1 {name}": (4, 16, 3, 3)}
    made = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", f"w0 {name}"], [f"a {name}"], name=f"first {name}"),
        helper.make_node("Relu", [f"a {name}"], [f"b {name}"], name=f"relu {name}"),
        helper.make_node("Conv", [f"b {name}", f"w1 {name}"], ["y"], name=f"second {name}"),
    ]
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])], [value("y", TensorProto.FLOAT, [1, 4, 4, 4])]
    graph = helper.make_graph(nodes, "g", *ends, initializer=made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
