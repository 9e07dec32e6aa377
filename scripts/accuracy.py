"""Print the held-out accuracy of models trained on the digits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

EVAL = Path(__file__).resolve().parent.parent / "models" / "digits_eval.npz"


def accuracy(path: str) -> float:
    """Return the share of held-out digits that a model names right."""
    data = np.load(EVAL)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: data["input"]})
    return float((logits.argmax(axis=1) == data["labels"]).mean())


if __name__ == "__main__":
    for model in sys.argv[1:]:
        print(f"{100 * accuracy(model):5.1f} %  {Path(model).name}")
