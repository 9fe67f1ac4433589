"""Batches of any form: tensors in tuples, lists and dictionaries, whose first dimension is the samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def own(tensor: Tensor) -> Tensor:
    """A detached copy in the same layout."""
    return tensor.detach().clone()


def channels_last(tensor: Tensor) -> Tensor:
    """Images on the CPU in channels-last layout, where convolution and pooling are faster; others as they are."""
    last = tensor.dim() == 4 and tensor.is_floating_point() and tensor.device.type == "cpu"
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with ``change`` applied to its tensors."""
    return rebuilt(batch, change, lambda entries: entries)


def part(batch: Any, start: int, stop: int) -> Any:
    """A copy of the samples from ``start`` to before ``stop``."""
    return rebuilt(batch, lambda t: t[start:stop].clone() if t.dim() > 0 else t, lambda entries: entries[start:stop])


def plain(batch: Any) -> Any:
    """The batch in built-in types: named tuples as tuples, mappings as dictionaries."""
    if isinstance(batch, Mapping):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return (list if isinstance(batch, list) else tuple)(plain(value) for value in batch)
    return batch


def is_plain(batch: Any) -> bool:
    """Whether the batch is made of built-in types."""
    if isinstance(batch, (list, tuple, Mapping)):
        values = batch.values() if isinstance(batch, Mapping) else batch
        return type(batch) in (list, tuple, dict) and all(map(is_plain, values))
    return True


def formed(batch: Any, form: Any) -> Any:
    """A plain batch in the types that ``form`` has."""
    if isinstance(form, Mapping):
        kind: Any = type(form)
        return kind({key: formed(batch[key], value) for key, value in form.items()})
    if isinstance(form, (list, tuple)) and not _of_samples(form):
        return sequence(form, [formed(value, like) for value, like in zip(batch, form, strict=True)])
    return batch


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """The batch's tensors, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from tensors_in(item)
    elif isinstance(batch, (list, tuple)):
        for item in batch:
            yield from tensors_in(item)


def batch_size(batch: Any) -> int | None:
    """The number of samples in a batch: the length of its first tensor that has one, or None if there is none."""
    # of a nested tensor that size can be asked for, and the whole shape cannot
    return next((tensor.size(0) for tensor in tensors_in(batch) if tensor.dim() > 0), None)


def joined(batches: list[Any]) -> Any:
    """One batch of the samples of all."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.dim() > 0 else first
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if _of_samples(first):
        return type(first)(item for batch in batches for item in batch)
    if isinstance(first, (list, tuple)):
        return sequence(first, [joined([batch[i] for batch in batches]) for i in range(len(first))])
    return first


def rebuilt(
    batch: Any,
    tensor: Callable[[Tensor], Tensor],
    entries: Callable[[Any], Any],
    other: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """The batch with its tensors, its lists of one entry per sample, and what is neither, changed."""
    if isinstance(batch, Tensor):
        return tensor(batch)
    if _of_samples(batch):
        return entries(batch)
    if isinstance(batch, Mapping):
        kind: Any = type(batch)
        found = {key: rebuilt(value, tensor, entries, other) for key, value in batch.items()}
        try:
            return kind(found)
        except TypeError:  # of a class with another constructor, as defaultdict
            like: Any = copy.copy(batch)
            like.update(found)
            return like
    if isinstance(batch, (list, tuple)):
        return sequence(batch, [rebuilt(value, tensor, entries, other) for value in batch])
    return other(batch)


def sequence(like: list[Any] | tuple[Any, ...], values: list[Any]) -> Any:
    """A list, tuple or named tuple of the type of another one."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def _of_samples(value: Any) -> bool:
    """Whether a value is a list of one entry per sample that is no tensor, as collated strings are."""
    return isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and next(tensors_in(value), None) is None
