"""`python -m onnxprune` is the command line, and so is the program `onnxprune`."""

import sys


def main() -> None:
    """Run the command line and exit; Ctrl-C counts from the first import on."""
    try:
        from onnxprune.cli import main as program
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    program()


if __name__ == "__main__":
    main()
