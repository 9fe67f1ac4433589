"""Autocast that a model enters by itself, as one does that accelerate has prepared: off, as around the whole run.

A run has full precision. What it gives would differ otherwise before and behind the preparation of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn


@contextmanager
def no_autocast(model: nn.Module) -> Iterator[None]:
    """Let ``torch.autocast``, by whatever name it was imported, change nothing in this thread for a while.

    Not in a model with parameters of several precisions, whose layers may rely on it.
    """
    kind: Any = torch.autocast
    enter, thread = kind.__enter__, get_ident()

    def entered(self: Any) -> Any:
        if get_ident() != thread or not self._enabled or _mixed(model):
            return enter(self)
        self._enabled = False
        try:
            return enter(self)
        finally:
            self._enabled = True

    kind.__enter__ = entered
    try:
        yield
    finally:
        kind.__enter__ = enter


def _mixed(model: nn.Module) -> bool:
    return len({p.dtype for p in model.parameters() if p.is_floating_point()}) > 1
