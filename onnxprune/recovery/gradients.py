"""Gradients of a piece of a model, as the nodes of another one (reverse-mode differentiation).

The rules say how the gradient of an operator's output becomes that of an input (`onnxprune.rules.tape`).
Where an operator has none the gradient ends: whoever asks has to aim at its input instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.rules.registry import facets_of
from onnxprune.rules.tape import Gradient, NodeUse, Piece, Tape


def gradient_for(use: NodeUse) -> Gradient | None:
    """Return how the gradient of a node's output becomes that of an input; None where that is unknown."""
    found = facets_of(use.node, use.piece.opsets).gradient
    return found if found is not None and found.known_for(use) else None


def adjoint(piece: Piece, tape: Tape, gradients: Mapping[str, str], wanted: frozenset[str]) -> dict[str, str]:
    """Write the backward pass of a piece on a tape; return the gradients of the tensors wanted.

    gradients: what is known already, by tensor. Paths that no rule continues count for nothing, nor do
    those that lead to none of the tensors wanted.
    """
    needed = _reached(piece, wanted)
    parts: dict[str, list[str]] = {name: [known] for name, known in gradients.items()}
    for node in reversed(piece.nodes):
        coming = _total(tape, parts, node.output[0])
        if coming is None:
            continue
        for place, name in enumerate(node.input):
            use = NodeUse(piece, node, place)
            gradient = gradient_for(use) if name in needed else None
            if gradient is not None:
                parts.setdefault(name, []).append(gradient.back(use, tape, coming))
    totals = {name: _total(tape, parts, name) for name in sorted(wanted)}
    return {name: total for name, total in totals.items() if total is not None}


def _reached(piece: Piece, start: frozenset[str]) -> set[str]:
    """Return the tensors that depend on some."""
    result = set(start)
    for node in piece.nodes:
        if any(name in result for name in node.input):
            result.update(node.output)
    return result


def _total(tape: Tape, parts: dict[str, list[str]], name: str) -> str | None:
    found = parts.get(name)
    if not found:
        return None
    total = found[0]
    for part in found[1:]:
        total = tape.emit("Add", total, part)
    parts[name] = [total]
    return total
