"""The inputs of an attention: one, two or three tensors, for queries, keys and values."""

from __future__ import annotations

from copy import copy
from itertools import accumulate

import torch
from torch import Tensor


class Sources:
    """The inputs of an attention, neighbours that are one tensor once.

    Args:
        query: (..., embed).
        key: (..., kdim).
        value: (..., vdim).
        merged: whether one system may serve several projections; not where each has a weight of its own.

    Attributes:
        tensors: one to three, each (..., embed).
        projections: how many of the three each of them has.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, merged: bool = True) -> None:
        self.tensors, self.projections = [query], [1]
        for tensor in (key, value):
            if merged and tensor is self.tensors[-1]:
                self.projections[-1] += 1
            else:
                self.tensors.append(tensor)
                self.projections.append(1)

    @property
    def shape(self) -> torch.Size:
        """The leading dimensions of all tensors, one's after the other's, and the embedding."""
        return torch.Size([*(size for tensor in self.tensors for size in tensor.shape[:-1]), self.tensors[0].shape[-1]])

    @property
    def starts(self) -> list[int]:
        """The number of each tensor's first place, where places are numbered through all of them."""
        return [0, *accumulate(tensor.shape[:-1].numel() for tensor in self.tensors[:-1])]

    def detach(self) -> Sources:
        """Without a graph; what is one tensor stays one."""
        other = copy(self)
        other.tensors = [tensor.detach() for tensor in self.tensors]
        return other

    def numel(self) -> int:
        """The least number of entries of a tensor."""
        return min(tensor.numel() for tensor in self.tensors)
