"""The noise that training has on a layer's input, by the columns of A; see ``engine/reference/noise.py``."""

from __future__ import annotations

import torch
from torch import Tensor


def noisy_columns(noise: float, count: int, others: int, like: Tensor) -> Tensor | None:
    """The ``noise`` on the first ``count`` columns of A, (count + others,); None for none at all."""
    if noise == 0:
        return None
    return torch.cat([like.new_full((count,), noise), like.new_zeros(int(others))])
