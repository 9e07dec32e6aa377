"""What holds for all tests."""

from __future__ import annotations

import os

from onnxprune.model.machine import THREAD_COUNTS
from tests.signals import hear_interrupts


def pytest_configure() -> None:
    """Tests send SIGINT to what they start, and as many run side by side as there are cores."""
    hear_interrupts()
    for name in THREAD_COUNTS:
        os.environ.setdefault(name, "1")
