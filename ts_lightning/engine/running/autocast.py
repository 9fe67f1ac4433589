"""Autocast that a model enters by itself, as one does that accelerate has prepared, casts to float32 in a run.

A run has full precision: it gives the same before and behind the preparation of a model. Autocast to float32 changes
nothing in float32, and still joins what a forward casts by hand with parameters in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn


@contextmanager
def to_float32(model: nn.Module) -> Iterator[None]:
    """Let ``torch.autocast``, by whatever name it was imported, cast to float32 in this thread for a while.

    Not in a model with parameters of a lower precision, with which other layers, as norms, would no longer go together.
    """
    kind: Any = torch.autocast
    enter, thread = kind.__enter__, get_ident()

    def entered(self: Any) -> Any:
        if get_ident() != thread or not self._enabled or _is_low(model):
            return enter(self)
        asked, self.fast_dtype = self.fast_dtype, torch.float32
        try:
            return enter(self)
        finally:
            self.fast_dtype = asked

    kind.__enter__ = entered
    try:
        yield
    finally:
        kind.__enter__ = enter


def _is_low(model: nn.Module) -> bool:
    return any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())
