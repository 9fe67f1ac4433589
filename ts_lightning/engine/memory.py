"""Where tensors lie in memory, and which of them share some.

A parameter that was made of another one's memory, as by ``nn.Parameter(encoder.weight.t())`` or ``b.weight.data =
a.weight.data``, is tied to it, though both are parameters of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COMPARED = 1_000_000  # entries, up to which they are compared one by one; more of them count as shared


def memory(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; its id where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # of sparse and wrapped tensors
        return id(tensor)


def sharing(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The groups of two or more tensors that share entries; those that lie side by side in one memory share none."""
    held: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        held.setdefault(memory(tensor), []).append(tensor)
    groups: list[list[Tensor]] = []
    for together in (tensors for tensors in held.values() if len(tensors) > 1):
        met: list[Tensor] = []
        end = 0
        for tensor in sorted(together, key=_begin):
            if met and _begin(tensor) >= end:  # of those whose spans meet, entries are compared
                groups += _overlapping(met)
                met = []
            met.append(tensor)
            end = max(end, _begin(tensor) + _span(tensor))
        groups += _overlapping(met)
    return groups


def _overlapping(met: list[Tensor]) -> list[list[Tensor]]:
    if len(met) < 2:
        return []
    without_gaps = all(_span(tensor) == tensor.numel() * tensor.element_size() for tensor in met)
    if without_gaps or sum(tensor.numel() for tensor in met) > _COMPARED:
        return [met]
    groups: list[tuple[list[Tensor], Tensor]] = []
    for tensor in met:
        inside, places, apart = [tensor], _places(tensor), []
        for group, taken in groups:
            if bool(torch.isin(places, taken).any()):
                inside, places = [*group, *inside], torch.cat([taken, places])
            else:
                apart.append((group, taken))
        groups = [*apart, (inside, places)]
    return [group for group, _ in groups if len(group) > 1]


def _begin(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * tensor.element_size()


def _span(tensor: Tensor) -> int:
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(last + 1) * tensor.element_size()


def _places(tensor: Tensor) -> Tensor:
    """Where the entries of a tensor begin, in bytes."""
    found = torch.tensor([tensor.storage_offset()], device="cpu")
    for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = (found[:, None] + stride * torch.arange(n, device="cpu")).flatten()
    return found * tensor.element_size()
