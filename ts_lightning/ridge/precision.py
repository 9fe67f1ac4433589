"""Solves run in full float32, whatever autocast and float32_matmul_precision say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast, TF32 and bfloat16 products off on ``device`` for a while."""
    restore = [*_general(), *_by_library()]
    try:
        with without_autocast(device):
            yield
    finally:
        for undo in reversed(restore):
            undo()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off for a while; entering it takes as long as a small product, also where it is off already."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a precision. ``Tensor.to`` takes as long as a small product even where it changes nothing."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _general() -> list[Callable[[], object]]:
    """Set full float32 by the settings that all versions of PyTorch have; returns functions that undo it."""
    try:
        # reading the last one raises where precisions are set by library, so that the first two do not say everything
        matmul, cudnn, _ = (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        )
    except RuntimeError:  # set by library, which these settings cannot express
        return []
    undo: list[Callable[[], object]] = []
    if matmul != "highest":
        torch.set_float32_matmul_precision("highest")
        undo.append(partial(torch.set_float32_matmul_precision, matmul))
    if cudnn:
        torch.backends.cudnn.allow_tf32 = False
        undo.append(partial(setattr, torch.backends.cudnn, "allow_tf32", True))
    return undo


def _by_library() -> list[Callable[[], object]]:
    """Set full float32 in each library's own setting (PyTorch from 2.9 on); returns functions that undo it."""
    undo: list[Callable[[], object]] = []
    for library in _libraries():
        value = library.fp32_precision
        if value in ("tf32", "bf16"):
            library.fp32_precision = "ieee"
            undo.append(partial(setattr, library, "fp32_precision", value))
    return undo


@cache
def _libraries() -> tuple[Any, ...]:
    """The libraries that have a setting of their own; none before PyTorch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return ()
    return (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
