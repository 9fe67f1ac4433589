"""Batches of any form: tensors in tuples, lists and dictionaries, whose first dimension is the samples."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_DEEP = 4  # objects within objects that are looked into
_MANY = 4096  # entries of a container in an object, beyond which it is no part of a batch
_PLAIN = (list, tuple)


def own(tensor: Tensor) -> Tensor:
    """A detached copy in the same layout."""
    return tensor.detach().clone()


def channels_last(tensor: Tensor) -> Tensor:
    """Images on the CPU in channels-last layout, where convolution and pooling are faster; others as they are."""
    last = tensor.dim() == 4 and tensor.is_floating_point() and tensor.device.type == "cpu"
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with ``change`` applied to its tensors."""
    return _rebuilt(batch, change, lambda entries: entries)


def fresh(batch: Any) -> Any:
    """A copy that can be written to: of tensors, of the lists and mappings around them, and of objects that hold some.

    An object that has a method ``clone``, as batches of graphs have, is copied by it; another one with its attributes,
    if any of these holds a tensor.
    """
    return _Copies().of(batch)


class _Copies:
    """One of each object in a batch, which may hold others and itself."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}  # by id: an object and its copy

    def of(self, value: Any, deep: int = _DEEP) -> Any:
        """A copy of what a batch is made of."""
        return _rebuilt(value, own, lambda found: self._entries(found, deep), lambda found: self._object(found, deep))

    def _entries(self, values: Any, deep: int) -> Any:
        return type(values)(self.of(value, deep) for value in values) if type(values) in _PLAIN else copy.copy(values)

    def _object(self, value: Any, deep: int) -> Any:
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, (type, nn.Module)) or not _holds(value, deep):
            return value
        try:
            found = self._cloned(value)
            if found is None:
                found = _empty(value)
                self._made[id(value)] = value, found
                for name, entry in _attributes(value).items():
                    object.__setattr__(found, name, self._attribute(entry, deep - 1))
        except Exception:  # of an object that is no plain holder of tensors, which a forward hardly writes to
            found = value
        self._made[id(value)] = value, found
        return found

    def _cloned(self, value: Any) -> Any:
        """What the object's own method gives, if it has one that copies; otherwise None."""
        clone = getattr(type(value), "clone", None)
        if not callable(clone) or len(inspect.signature(clone).parameters) != 1:
            return None
        try:
            found = clone(value)
        except Exception:  # of a method that is for something else
            return None
        return found if type(found) is type(value) else None

    def _attribute(self, entry: Any, deep: int) -> Any:
        """A copy of an attribute; a container of a class of its own is left to that class."""
        if isinstance(entry, (Mapping, list, tuple)) and (type(entry) not in (dict, *_PLAIN) or len(entry) > _MANY):
            return copy.copy(entry)
        return self.of(entry, deep) if deep > 0 else entry


def part(batch: Any, start: int, stop: int) -> Any:
    """A copy of the samples from ``start`` to before ``stop``."""
    return _rebuilt(batch, lambda t: t[start:stop].clone() if t.dim() > 0 else t, lambda entries: entries[start:stop])


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
        return _sequence(form, [formed(value, like) for value, like in zip(batch, form, strict=True)])
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
        return _sequence(first, [joined([batch[i] for batch in batches]) for i in range(len(first))])
    return first


def _rebuilt(
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
        found: Any = {key: _rebuilt(value, tensor, entries, other) for key, value in batch.items()}
        try:
            return type(batch)(found)  # type: ignore[call-arg]
        except TypeError:  # of a class with another constructor, as defaultdict
            like: Any = copy.copy(batch)
            like.update(found)
            return like
    if isinstance(batch, (list, tuple)):
        return _sequence(batch, [_rebuilt(value, tensor, entries, other) for value in batch])
    return other(batch)


def _empty(value: Any) -> Any:
    """A new object of a class, without a call of its constructor where that is possible."""
    try:
        return object.__new__(type(value))
    except TypeError:  # of a class that is not written in Python
        return copy.copy(value)


def _attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, those in slots among them."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _holds(value: Any, deep: int = _DEEP) -> bool:
    """Whether a value is a tensor or holds one, a few levels down."""
    if isinstance(value, Tensor):
        return True
    if not deep or isinstance(value, (type, nn.Module)):
        return False
    if isinstance(value, (Mapping, list, tuple)) and len(value) > _MANY:
        return False
    if isinstance(value, Mapping):
        inner: Any = value.values()
    else:
        inner = value if isinstance(value, (list, tuple)) else _attributes(value).values()
    return any(_holds(entry, deep - 1) for entry in inner)


def _sequence(like: list[Any] | tuple[Any, ...], values: list[Any]) -> Any:
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def _of_samples(value: Any) -> bool:
    """Whether a value is a list of one entry per sample that is no tensor, as collated strings are."""
    return isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and next(tensors_in(value), None) is None
