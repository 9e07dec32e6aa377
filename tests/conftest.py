"""What holds for all tests."""

from __future__ import annotations

import os

from tests.signals import hear_interrupts

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONNXPRUNE_THREADS")


def pytest_configure() -> None:
    """Tests send SIGINT to what they start, and as many run side by side as there are cores."""
    hear_interrupts()
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
