"""Concrete sizes for the dynamic dimensions of a model's inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import onnx

from onnxprune.errors import UsageError, nearest, shortened
from onnxprune.model.graph import InputSpec, input_specs

Given = Mapping[str, tuple["int | None", ...]]
Sizes = dict[str, tuple[int, ...]]

_IMAGE_SIZES = (64, 224, 32, 96, 128, 256, 320, 384, 416, 512, 640, 48, 16)
_OTHER_SIZES = (
    16, 32, 64, 128, 512, 256, 8, 100, 224, 320, 400, 480, 640, 1024, 4, 2, 1, 2048, 4096, 8000, 16000,
)  # fmt: skip
FAR_BATCH, FAR_FACTOR = 17, 3
_BATCH = re.compile(r"batch|^(n|b|bs|none)$", re.IGNORECASE)
_SUM = re.compile(r"\s*([A-Za-z_]\w*|\d+)\s*(?:([+*-])\s*([A-Za-z_]\w*|\d+)\s*)")


def default_sizes(model: onnx.ModelProto, given: Given | None = None) -> list[Sizes]:
    """Candidate sizes of all inputs, likely ones first: batch 1, one size for every other symbol.

    Sizes that are given hold for every dimension of the same symbol. Raises UsageError for given
    sizes that no input has or that contradict the declared ones.
    """
    specs = input_specs(model)
    fixed = _given_symbols(specs, given or {})
    ranks = {name: len(spec.dims) for name, spec in specs.items() if spec.dims is not None}
    symbols = _symbols(specs)
    batch = {s for s, places in symbols.items() if _is_batch(s, places, ranks)}
    free = [s for s in symbols if s not in batch and s not in fixed and not _SUM.fullmatch(s)]
    image = bool(free) and all(ranks[name] >= 4 for s in free for name, _ in symbols[s])
    candidates = (_IMAGE_SIZES if image else _OTHER_SIZES) if free else (1,)
    result: list[Sizes] = []
    for size in candidates:
        chosen = dict.fromkeys(free, size) | dict.fromkeys(batch, 1)
        if any("past" in s.lower() for s in free):
            # Decoders with a cache attend to what is new and what is past.
            chosen |= {s: 2 * size for s in free if "total" in s.lower()}
        chosen |= fixed
        sizes = {name: _sized(spec, chosen, given or {}) for name, spec in specs.items()}
        if sizes not in result:
            result.append(sizes)
    return result


def _symbol(name: str, axis: int, dim: int | str | None) -> str:
    return dim if isinstance(dim, str) else f"{name}\0{axis}"


def _symbols(specs: Mapping[str, InputSpec]) -> dict[str, list[tuple[str, int]]]:
    """Every symbol with the places where it stands; nameless dimensions get a symbol of their own."""
    result: dict[str, list[tuple[str, int]]] = {}
    for name, spec in specs.items():
        for axis, dim in enumerate(spec.dims or ()):
            if not isinstance(dim, int):
                result.setdefault(_symbol(name, axis, dim), []).append((name, axis))
    return result


def _is_batch(symbol: str, places: list[tuple[str, int]], ranks: Mapping[str, int]) -> bool:
    if "\0" not in symbol and _BATCH.search(symbol):
        return True
    # The only axis of a vector is its length: samples of audio, tokens of a text.
    return any(axis == 0 and ranks[name] > 1 for name, axis in places)


def _given_symbols(specs: Mapping[str, InputSpec], given: Given) -> dict[str, int]:
    fixed: dict[str, int] = {}
    for name, shape in given.items():
        check_name(name, specs)
        dims = specs[name].dims
        if dims is not None and len(dims) != len(shape):
            got = f"got {len(shape)} size{'' if len(shape) == 1 else 's'}, expected {len(dims)}"
            raise UsageError(f"input '{name}': {got}; give one size for each dimension of {_shown(dims)}")
        for axis, size in enumerate(shape):
            dim = dims[axis] if dims is not None else None
            if size is None or dim == size:
                continue
            if isinstance(dim, int):
                raise UsageError(
                    f"input '{name}': size {size} at axis {axis}, but the model declares {_shown(dims)}"
                )
            if size < 1:
                raise UsageError(f"input '{name}': got size {size} at axis {axis}, expected 1 or more")
            if dims is not None:
                fixed[_symbol(name, axis, dim)] = size
    return fixed


def free_symbols(specs: Mapping[str, InputSpec], base: Sizes, given: Collection[str] = ()) -> dict[str, int]:
    """Return the symbols that no other decides, with their sizes; `given` names inputs whose sizes stay."""
    return {
        symbol: base[places[0][0]][places[0][1]]
        for symbol, places in _symbols(specs).items()
        if not _SUM.fullmatch(symbol) and not any(name in given for name, _ in places)
    }


def sized_by(specs: Mapping[str, InputSpec], base: Sizes, changed: Mapping[str, int]) -> Sizes:
    """Return sizes of all inputs where some symbols have others; sums of symbols follow."""
    chosen = free_symbols(specs, base) | dict(changed)

    def size(symbol: str, before: int) -> int:
        match = _SUM.fullmatch(symbol)
        follows = symbol in changed or (match is not None and bool({match[1], match[3]} & changed.keys()))
        return _value(symbol, chosen) if follows else before

    return {
        name: tuple(
            d if isinstance(d, int) else size(_symbol(name, axis, d), s)
            for axis, (d, s) in enumerate(zip(spec.dims or base[name], base[name], strict=True))
        )
        for name, spec in specs.items()
    }


def far_sizes(specs: Mapping[str, InputSpec], base: Sizes) -> Sizes:
    """Choose sizes far from those that are run: what follows an input may show only there."""
    return {
        name: tuple(
            s if isinstance(d, int) else FAR_BATCH if s == 1 else FAR_FACTOR * s
            for d, s in zip(spec.dims or base[name], base[name], strict=True)
        )
        for name, spec in specs.items()
    }


def check_name(name: str, specs: Mapping[str, InputSpec]) -> None:
    """Refuse a name that no input has. Raises UsageError with the nearest and all names."""
    if name not in specs:
        inputs = shortened(", ".join(shown_inputs(specs))) or "none"
        raise UsageError(f"the model has no input '{name}'{nearest(name, specs)}; its inputs are {inputs}")


def _shown(dims: tuple[int | str | None, ...] | None) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims or ()) + "]"


def _sized(spec: InputSpec, chosen: Mapping[str, int], given: Given) -> tuple[int, ...]:
    asked = given.get(spec.name)
    if spec.dims is None:
        return tuple(1 if s is None else s for s in asked or ())
    sizes = []
    for axis, dim in enumerate(spec.dims):
        size = asked[axis] if asked else None
        if size is None:
            size = dim if isinstance(dim, int) else _value(_symbol(spec.name, axis, dim), chosen)
        sizes.append(size)
    return tuple(sizes)


def _value(symbol: str, chosen: Mapping[str, int]) -> int:
    """Size of a symbol; sums like `past_length + 1`, which exporters write, are computed."""
    if symbol in chosen:
        return chosen[symbol]
    match = _SUM.fullmatch(symbol)
    if match is None:
        return 1
    left, right = (_operand(match[i], chosen) for i in (1, 3))
    return max({"+": left + right, "-": left - right, "*": left * right}[match[2]], 0)


def _operand(text: str, chosen: Mapping[str, int]) -> int:
    return int(text) if text.isdigit() else chosen.get(text, 1)


def shown_inputs(specs: Mapping[str, InputSpec]) -> Iterator[str]:
    """Each input with its declared dims, for messages."""
    for name, spec in specs.items():
        yield f"'{name}' {_shown(spec.dims)}"
