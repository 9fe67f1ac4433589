"""Functions that ``torch.compile`` of an optimizer's step does not trace: they solve, pull back, or keep one state."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def untraced(function: Any) -> Any:
    """The function, which runs as it is, with all that it calls, also within what was compiled.

    As ``torch.compiler.disable`` has it, but that would import the compiler, which takes seconds.
    """
    plain: list[Callable[..., Any]] = []
    disable: Any = torch.compiler.disable

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # nothing was compiled
            return function(*args, **kwargs)
        if not plain:
            plain.append(disable(function))
        return plain[0](*args, **kwargs)

    vars(run)["_torchdynamo_disable"] = True  # which breaks the graph ahead of it
    return run
