"""Floor 9: the command line. Options are parsed, the API is called, reports are printed."""

from onnxprune.cli.app import main

__all__ = ["main"]
