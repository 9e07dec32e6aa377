"""Reports for people and for other programs: pages, tables, JUnit, and the comparison of two runs."""

from __future__ import annotations

from onnxprune.reports.environment import environment
from onnxprune.reports.one_model import Page, model_page
from onnxprune.reports.reading import read_run
from onnxprune.reports.writing import write_all

__all__ = ["Page", "environment", "model_page", "read_run", "write_all"]
