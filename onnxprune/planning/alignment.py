"""Widths that fit the machine: a width off the step costs what the next step costs, or more.

onnxruntime's CPU kernels work on blocks of channels (NCHWc, 16 with AVX-512, 8 with AVX2 and NEON);
widths that are no multiple of 4 fall back to slower kernels. See docs/design, Allocation.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

NARROW = 4


def machine_step() -> int:
    """Return the step of this machine's widest vector instructions: 16 with AVX-512, else 8."""
    flags = _cpu_flags()
    if platform.machine() in ("x86_64", "AMD64") and "avx512f" in flags:
        return 16
    return 8


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def allowed_widths(width: int, step: int) -> np.ndarray:
    """List the widths a group of this width may have: its own, and multiples of the step below it.

    Groups narrower than a step go by multiples of 4; below 8 channels there is nothing to align.
    (MobileNetV2 at half of the MACs, AVX-512: its 16-wide group cut to 12 or 8 makes the whole model
    15 % slower than leaving it at 16.)
    """
    if step <= 1 or width < 2 * NARROW:
        return np.arange(1, width + 1)
    unit = step if width >= step else min(NARROW, step)
    return np.unique(np.append(np.arange(unit, width + 1, unit), width))
