"""Who watches a batch is told of every step; nothing is shown unless somebody watches."""

from __future__ import annotations

from onnxprune.reports.record import Record


class Watch:
    """Sees nothing; what shows progress overrides its methods."""

    def planned(self, total: int, finished: int) -> None:
        """Hear how many models there are, and how many of them an earlier run has finished."""

    def begun(self, name: str, attempt: int) -> None:
        """Hear that a model is begun."""

    def at(self, name: str, stage: str) -> None:
        """Hear how far a model is within a long stage."""

    def retried(self, name: str, reason: str) -> None:
        """Hear that a model is going to be run a second time, and why."""

    def ended(self, record: Record) -> None:
        """Hear how a model ended."""

    def warned(self, text: str) -> None:
        """Hear what somebody should look at."""
