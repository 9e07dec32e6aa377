"""The command line: options are parsed, the functions of the package are called, reports are printed."""

from onnxprune.cli.app import main

__all__ = ["main"]
