"""Random ONNX graphs with the structures that real exporters write, for the oracle law and other properties.

    from tests.laws.generator import generate
    case = generate(seed)          # a Case: seed, model, features, input_shapes
    for shapes in case.input_shapes:
        feeds = case.feeds(shapes, rng)

`generate` is a pure function of the seed. Every model passes the full checker and runs in onnxruntime on all
of `case.input_shapes` (several batch and spatial sizes where those are dynamic) with standard normal inputs
of the type the model declares (float16 where `"float16" in case.features`); its outputs are finite and depend
on the inputs. Models with `half_precision` round to float16 somewhere inside: compare them with a float16
tolerance, as a rounding may flip. `FEATURES` names every block and variation; `case.features` tells which of
them a model has. `python -m tests.laws.generator SEED out.onnx` writes one model.

How it is made: `core` holds the graph under construction, where every live tensor carries its shape under
each assignment of the dynamic sizes and an estimate of its magnitude. `ops` writes operators as each operator
set wants them. The other modules register blocks in `table.BLOCKS`: functions that add nodes behind a live
tensor or return None, before adding anything, where the tensor does not suit. `variations` changes how the
finished graph is stored. To add a block: write such a function with the `@block` decorator; nothing else has
to change (but every seed then gives another model). A block with a `draw` is one of those that only some
models have; a draw whose first seed is new (`assemble.DRAWS`) leaves the models of all seeds before it.
"""

from .assemble import FEATURES, Case, generate

__all__ = ["FEATURES", "Case", "generate"]
