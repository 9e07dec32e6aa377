"""What holds for all tests."""

from __future__ import annotations

from tests.signals import hear_interrupts


def pytest_configure() -> None:
    """Tests send SIGINT to what they start."""
    hear_interrupts()
