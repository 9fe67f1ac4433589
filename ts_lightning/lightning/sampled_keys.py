"""What a loader's sampler may ask its data set for, found without a trace but on the global random states.

Of PyTorch's own samplers it is known. Another one is iterated, a copy of it: for one pass if it has a length, and
never for more than some times the size of the data set, since it may have no end.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_PASSES = 10  # through the data set, in which a sampler that draws at random leaves out one sample in 20 000
_UNKNOWN = 100_000  # the size of a data set that does not say it


def sampled_keys(loader: DataLoader[Any], enough: int | None) -> Sequence[Any]:
    """The keys of samples that a loader may fetch, in the data set's order where that is known.

    Args:
        loader: of a data set with an index.
        enough: how many are needed at most; None for all.
    """
    batches, total = loader.batch_sampler, _length(loader.dataset)
    if batches is not None and type(batches) is not BatchSampler:
        keys = (key for given in _one_pass(batches) for key in given)
    else:
        sampler: Any = loader.sampler
        while hasattr(sampler, "dataset") and hasattr(sampler.dataset, "_sampler"):
            sampler = sampler.dataset._sampler  # of Lightning's wrapper, which shares a sampler among processes
        if type(sampler) in (SequentialSampler, RandomSampler, DistributedSampler):
            return range(len(loader.dataset))  # type: ignore[arg-type]
        if type(sampler) is SubsetRandomSampler:
            return sampler.indices
        if type(sampler) is WeightedRandomSampler:
            indices: list[int] = sampler.weights.nonzero().squeeze(1).tolist()
            return indices
        keys = (key for given in _one_pass(sampler) for key in _single(given, total or 0))
    size = _UNKNOWN if total is None else total
    most = size if enough is None else min(enough, size)
    distinct: dict[Any, Any] = {}
    for key in islice(keys, _PASSES * size):
        distinct.setdefault(_hashable(key), key)
        if len(distinct) >= most:
            break
    return list(distinct.values())


def _length(of: Any) -> int | None:
    """The length of a data set or a sampler, if it has one."""
    try:
        return len(of)
    except (TypeError, NotImplementedError):
        return None


def _one_pass(sampler: Any) -> Iterator[Any]:
    """What a copy of a sampler gives in one pass, if its length says where that ends."""
    return islice(_own_copy(sampler), _length(sampler))


def _hashable(key: Any) -> Any:
    """A key by which equal ones are known; a slice or a list of indices, which takes a batch at once, has no hash."""
    if isinstance(key, Tensor):  # whose hash is that of the object
        return repr(key.tolist())
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


def _single(key: Any, total: int) -> Iterable[Any]:
    """The keys of single samples that a sampler's key stands for, as a slice does in a data set of ``total``."""
    if isinstance(key, slice):
        return range(*key.indices(total))
    if isinstance(key, (Tensor, np.ndarray)):
        return [key.item()] if key.ndim == 0 else key.tolist()
    return key if isinstance(key, list) else [key]


def _own_copy(sampler: Any) -> Any:
    """A sampler that can be iterated without a trace on the loader's own, whose data it shares."""
    made = copy.copy(sampler)
    for name, value in getattr(made, "__dict__", {}).items():
        if isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
            made.__dict__[name] = copy.deepcopy(value)
        elif isinstance(value, Sampler):
            made.__dict__[name] = _own_copy(value)
    return made
