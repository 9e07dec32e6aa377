"""The words that settings take. Nothing heavy is imported here, so the command line can list them at once."""

from __future__ import annotations

NORM_CRITERIA = ("l1", "l2", "linf", "bn-scale", "fpgm", "random")
DATA_CRITERIA = ("activation", "wanda", "obs")
CRITERIA = (*NORM_CRITERIA, *DATA_CRITERIA)
RECOVERIES = ("none", "bias", "ls", "refit", "joint")
SYNTHETIC = "synthetic"  # in place of calibration data: inputs are made up
SCOPES = ("local", "global")
GRANULARITIES = ("finest", "columns", "rows")
METRICS = ("top1", "agreement", "cosine", "psnr", "drift")
QUANTITIES = ("macs", "params", "size")  # what may remain
QUALITIES = ("drift", "drop")  # how far it may get worse
TARGETS = (*QUANTITIES, *QUALITIES)
INLINING = ("auto", "all", "none")
IN_PYTHON = "given in Python"  # data or a metric that is no path
SHARES = (0.1, 0.25, 0.5, 0.75)  # of channels that sensitivity removes
