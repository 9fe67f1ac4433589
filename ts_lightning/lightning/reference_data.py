"""Choosing the reference batch: samples of the training data, collated as training batches are.

Nothing is drawn from the random state and no sampler is advanced: training sees its data in the same order with and
without target space. The batch is a copy of its own, on the model's device, and no buffer of the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from ts_lightning.config import Selection, Size
from ts_lightning.engine.batches import batch_size, joined, part, tensors_in
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.registry import family

_MANY, _FEW = 200, 100  # samples of size "auto"; docs/defaults.md


def reference_size(model: nn.Module, size: Size) -> int:
    """The number of samples that ``size`` asks for, "auto" depending on the layers of ``model``."""
    if size != "auto":
        return size
    kinds = [kind for kind in map(family, model.modules()) if kind is not None]
    return _FEW if any(kind.many_rows for kind in kinds) else _MANY


def reference_samples(loader: Any, size: int, selection: Selection, seed: int) -> Any:
    """A reference batch of ``size`` samples out of ``loader``'s data set.

    Args:
        loader: the training data: a DataLoader, or any iterable of batches.
        size: how many samples.
        selection: which samples.
        seed: for the random selections.

    Returns:
        One batch in the form that the loader yields. Fewer samples than asked for if the data set holds fewer.

    Raises:
        TargetSpaceError: the data is empty, or has no samples to choose from in the way that was asked.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        if isinstance(loader, (Mapping, list, tuple)) or not isinstance(loader, Iterable):
            raise TargetSpaceError(
                f"The training data is a {type(loader).__name__} of loaders; the reference batch needs to know which "
                f"to take. Override reference_batch()."
            )
        return _leading(loader, size, selection)
    dataset: Any = loader.dataset
    total = len(dataset)
    if total == 0:
        raise TargetSpaceError("The reference batch is empty, because the training data set is. Expected samples.")
    generator = torch.Generator().manual_seed(seed)
    if loader.batch_sampler is None and _is_batch(dataset[0]):
        return _whole_batches(loader, size, selection, generator)
    if selection == "first":
        indices = torch.arange(min(size, total))
    elif selection == "random":
        indices = torch.randperm(total, generator=generator)[:size].sort().values
    else:
        indices = _balanced(_labels(dataset), min(size, total), generator)
    if loader.batch_sampler is None and isinstance(loader.sampler, BatchSampler):
        return loader.collate_fn(dataset[indices.tolist()])
    samples = [dataset[int(i)] for i in indices]
    return loader.collate_fn(samples) if loader.batch_sampler is not None else default_collate(samples)


def _leading(loader: Iterable[Any], size: int, selection: Selection) -> Any:
    """The first samples of data that can only be iterated."""
    if selection != "first":
        raise TargetSpaceError(
            f"reference.selection={selection!r} needs a data set with a length and an index; found "
            f"{type(getattr(loader, 'dataset', loader)).__name__}. Use selection='first', or override "
            f"reference_batch()."
        )
    if type(loader) is DataLoader:
        # no workers, and no draw from the loader's or the global random state
        loader = DataLoader(
            loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, generator=torch.Generator()
        )
    return _gathered(iter(loader), size)


def _whole_batches(loader: DataLoader[Any], size: int, selection: Selection, generator: torch.Generator) -> Any:
    """Samples out of a data set whose items are batches already, as batch_size=None says."""
    if selection == "balanced":
        raise TargetSpaceError(
            "reference.selection='balanced' chooses among samples; found a data set of whole batches. Use "
            "selection='random', or override reference_batch()."
        )
    total = len(loader.dataset)  # type: ignore[arg-type]
    order = torch.randperm(total, generator=generator) if selection == "random" else torch.arange(total)
    return _gathered((loader.collate_fn(loader.dataset[int(i)]) for i in order), size)


def _gathered(batches: Iterator[Any], size: int) -> Any:
    """The first ``size`` samples of the batches, or all of the first batch where samples cannot be told apart."""
    kept: list[Any] = []
    held = 0
    for batch in batches:
        count = batch_size(batch)
        if count is None:
            return batch
        kept.append(batch)
        held += count
        if held >= size:
            break
    if held == 0:
        raise TargetSpaceError("The reference batch is empty, because the training data is. Expected samples.")
    return part(joined(kept), 0, size)


def _is_batch(item: Any) -> bool:
    """Whether an item is a batch rather than a sample: tensors of one length, more than vectors of numbers."""
    tensors = list(tensors_in(item))
    lengths = {tensor.shape[0] if tensor.dim() > 0 else None for tensor in tensors}
    return len(lengths) == 1 and max(tensor.dim() for tensor in tensors) > 1


def _labels(dataset: Any) -> Tensor:
    """The class of every sample: the data set's own list of them where it has one, else the last of each sample."""
    if isinstance(dataset, Subset):
        inner: Tensor = _labels(dataset.dataset)
        return inner[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        given: Any = dataset.tensors[-1]
    else:
        given = getattr(dataset, "targets", None)
        if given is None:
            sample = dataset[0]
            if not isinstance(sample, (tuple, list)):
                raise TargetSpaceError(
                    f"reference.selection='balanced' needs labels; found samples of type {type(sample).__name__}, "
                    f"expected tuples with the class last. Use selection='random', or override reference_batch()."
                )
            given = [dataset[i][-1] for i in range(len(dataset))]
    try:
        labels: Tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TargetSpaceError(
            f"reference.selection='balanced' needs one whole number per sample as its class; found labels like "
            f"{given[0]!r}. Use selection='random', or override reference_batch()."
        ) from None
    if labels.is_floating_point() or labels.dim() != 1:
        raise TargetSpaceError(
            f"reference.selection='balanced' needs one whole number per sample as its class; found labels of type "
            f"{labels.dtype} and shape {tuple(labels.shape)}. Use selection='random', or override reference_batch()."
        )
    return labels


def _balanced(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """As many indices of every class as possible, chosen at random, ``size`` in all."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    rank = torch.empty(len(labels), dtype=torch.long)  # the how-manieth of its class each sample is
    for value in torch.unique(shuffled):
        places = (shuffled == value).nonzero().squeeze(1)
        rank[places] = torch.arange(len(places))
    return order[rank.argsort(stable=True)[:size]].sort().values
