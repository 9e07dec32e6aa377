"""How often does one `prune --ratio 0.5` go through the whole model? Counts by wrapping what does it.

    python benchmarks/count_passes.py models/digits_resnet.onnx
    PYTHONPATH=OTHER_TREE python benchmarks/count_passes.py models/digits_resnet.onnx

It counts calls of onnx-graphsurgeon, onnx and onnxruntime only, and the files of the package in which a
function ran, so that it says the same of any version. A write is an export of a graph by the version
that has one, or a patch by the version that has that.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

WRITERS = (("onnxprune.model.carry", "to_model"), ("onnxprune.model.patch", "written"))


def counted(counts: Counter[str], what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, counted at every call."""

    def run(*args: Any, **kwargs: Any) -> Any:
        counts[what] += 1
        return function(*args, **kwargs)

    return run


def watch(counts: Counter[str]) -> None:
    """Count the imports, inferences and sessions of this process from here on."""
    gs.import_onnx = counted(counts, "graphsurgeon imports", gs.import_onnx)
    infer = onnx.shape_inference.infer_shapes
    onnx.shape_inference.infer_shapes = counted(counts, "shape inferences", infer)
    session = ort.InferenceSession

    class Counted(session):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            counts["sessions"] += 1
            super().__init__(*args, **kwargs)

    ort.InferenceSession = Counted


def main() -> None:
    """Prune once and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    watch(counts)
    import onnxprune

    home = Path(onnxprune.__file__).parent
    files: set[str] = set()
    written = {name for _, name in WRITERS}

    def entered(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{home}/"):
            return
        place = code.co_filename.removeprefix(f"{home}/")
        if code.co_name != "<module>":
            files.add(place)
        module = "onnxprune." + place.removesuffix(".py").replace("/", ".")
        if code.co_name in written and (module, code.co_name) in WRITERS:
            counts["protos written"] += 1

    settings = onnxprune.PruneSettings(ratio=given.ratio, bench=False)
    sys.setprofile(entered)
    try:
        onnxprune.prune(str(given.model), settings)
    finally:
        sys.setprofile(None)
    print(f"{given.model.stem}, package in {home}")
    for what in ("graphsurgeon imports", "protos written", "shape inferences", "sessions"):
        print(f"{counts[what]:5d} {what}")
    print(f"{len(files):5d} files of the package entered")


if __name__ == "__main__":
    main()
