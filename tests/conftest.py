"""What holds for all tests."""

from __future__ import annotations

import os

import pytest

from onnxprune.model.machine import THREAD_COUNTS
from tests.signals import hear_interrupts


def pytest_configure() -> None:
    """Tests send SIGINT to what they start, and as many run side by side as there are cores."""
    hear_interrupts()
    for name in THREAD_COUNTS:
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test is fast unless it or its module says otherwise."""
    for item in items:
        if item.get_closest_marker("slow") is None and item.get_closest_marker("zoo") is None:
            item.add_marker("fast")
