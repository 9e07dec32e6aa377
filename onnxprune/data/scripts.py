"""Functions of a user's script: what `script.py:function` names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxprune.errors import UsageError, shortened


def function_in(text: str, word: str) -> Callable[..., Any]:
    """Run the script of `script.py:function` and return its function.

    word: what messages call the script. Raises UsageError where there is no such script or function,
    and where the script fails.
    """
    name, _, function = text.rpartition(":")
    script = Path(name)
    spec = importlib.util.spec_from_file_location(f"onnxprune_script_{script.stem}", script)
    if spec is None or spec.loader is None or not script.is_file():
        raise UsageError(f"{word} script '{script}' does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    guarded(lambda: spec.loader.exec_module(module), f"{word} script '{script}'")  # type: ignore[union-attr]
    result = getattr(module, function, None)
    if not callable(result):
        raise UsageError(f"{word} script '{script}' has no function '{function}'")
    return result


def guarded(call: Callable[[], Any], what: str) -> Any:
    """Call code of the user; what it raises becomes one line.

    Raises UsageError where the code fails or exits.
    """
    try:
        return call()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        text = shortened(" ".join(str(error).split()))
        raise UsageError(f"{what} fails: {type(error).__name__}{': ' if text else ''}{text}") from error
