"""The order of training data, which the seed alone decides, whatever else has drawn random numbers."""

from __future__ import annotations

import torch


def ordering(seed: int | None) -> torch.Generator:
    """A generator for a DataLoader's order; without a ``seed``, from the one that torch was seeded with."""
    return torch.Generator().manual_seed(torch.initial_seed() % 2**63 if seed is None else seed)
