"""float32 in full around every solve, whatever autocast and float32_matmul_precision say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 or bfloat16 in the place of float32, on ``device``; as it was afterwards."""
    restore = [*_general(), *_by_library()]
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for undo in reversed(restore):
            undo()


def _general() -> list[Callable[[], object]]:
    """Switch off what the settings of all versions say; returns what switches it on again."""
    try:
        # the last is not needed, but reading it fails where the others would be misleading
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
    """The same for what is left in the settings of each library, which torch has from 2.9 on."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    libraries = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    undo: list[Callable[[], object]] = []
    for library in libraries:
        value = library.fp32_precision
        if value in ("tf32", "bf16"):
            library.fp32_precision = "ieee"
            undo.append(partial(setattr, library, "fp32_precision", value))
    return undo
