"""Signals as a process of a terminal gets them."""

from __future__ import annotations

import signal


def hear_interrupts() -> None:
    """Take SIGINT again: what a shell runs in its background begins, with its children, ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
