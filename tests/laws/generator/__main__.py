"""Write the model of one seed: python -m tests.laws.generator SEED out.onnx."""

import sys

import onnx

from . import generate


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not arguments[0].isdigit():
        print("usage: python -m tests.laws.generator SEED out.onnx", file=sys.stderr)
        return 2
    case = generate(int(arguments[0]))
    onnx.save(case.model, arguments[1])
    print(f"{len(case.model.graph.node)} nodes: {', '.join(sorted(case.features))}")
    for shapes in case.input_shapes:
        print(shapes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
