"""Blocks of the draw "structures", which came later: the models of seeds before it stay as they are.

This package is imported behind the other blocks, whose order in the table decides what a seed draws.
"""

from . import bodies, constants, multipliers, writes

__all__ = ["bodies", "constants", "multipliers", "writes"]
