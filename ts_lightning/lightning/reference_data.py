"""Choosing the reference batch: samples of the training data, collated as training batches are.

Of a data set with an index they are among those that the loader's sampler may ask for, fetched as the loader does;
nothing is drawn from the random state nor from generators that data sets and hooks hold, and no sampler is advanced.
Data that can only be iterated, and that of a loader with an iterator of its own, is read ahead by way of the training
loop's iterator, see :mod:`ts_lightning.lightning.training_data`. Training sees its data in the same order with and
without target space. The batch is a copy of its own, and no buffer of the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
)

from ts_lightning.amount import amount
from ts_lightning.config import Selection, Size
from ts_lightning.engine.running.batches import batch_size, joined, part, tensors_in
from ts_lightning.engine.running.copies import fresh
from ts_lightning.engine.running.generators import held
from ts_lightning.errors import TargetSpaceError, first_line
from ts_lightning.layers.registry import family
from ts_lightning.lightning.sampled_keys import sampled_keys
from ts_lightning.lightning.training_data import keeps_place

_ITERATION = ("__iter__", "_get_iterator")
_LISTED = 5  # items of a batch that a message names
_KNOWN = ("torch", "torchdata")  # whose iterators yield the samples of the data set, collated
_MANY, _FEW = 200, 100  # samples of size "auto"; docs/defaults.md


def reference_size(model: nn.Module, size: Size) -> int:
    """The number of samples that ``size`` asks for, "auto" depending on the layers of ``model``."""
    if size != "auto":
        return size
    kinds = [kind for kind in map(family, model.modules()) if kind is not None]
    return _FEW if any(kind.many_rows for kind in kinds) else _MANY


def form_of(batch: Any) -> str:
    """A batch in words: its types, and the shapes of its tensors."""
    if isinstance(batch, Tensor):
        return f"tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with keys {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        more = f", ... {len(batch)} in all" if len(batch) > _LISTED else ""
        return f"{type(batch).__name__} of ({', '.join(form_of(item) for item in batch[:_LISTED])}{more})"
    return type(batch).__name__


def equally_many(taken: list[Any]) -> list[Any]:
    """As many samples of each of several loaders' batches as the smallest has."""
    counts = [batch_size(batch) for batch in taken]
    least = min((count for count in counts if count is not None), default=0)
    return [
        batch if count is None or count == least else part(batch, 0, least)
        for batch, count in zip(taken, counts, strict=True)
    ]


def reference_samples(loader: Any, size: int, selection: Selection, seed: int, batches: Iterator[Any]) -> Any:
    """A reference batch of ``size`` samples out of the data that ``loader`` draws from.

    Args:
        loader: the training data: a DataLoader, or any iterable of batches.
        size: how many samples.
        selection: which samples.
        seed: for the random selections.
        batches: what training is going to see, from the front; asked for where the data can only be iterated.

    Returns:
        One batch in the form that the loader yields. Fewer samples than asked for if the data set holds fewer.

    Raises:
        TargetSpaceError: the data is empty, or has no samples to choose from in the way that was asked.
    """
    if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
        raise TargetSpaceError(
            f"The training data holds a {type(loader).__name__}; expected a DataLoader, or another iterable of "
            f"batches. Override reference_batch() to take the reference batch from it."
        )
    if _is_indexed(loader):
        with isolate_rng(include_cuda=torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
            return _indexed(loader, size, selection, seed)
    if selection != "first":
        data = getattr(loader, "dataset", None)
        found = type(data if isinstance(data, IterableDataset) else loader).__name__
        raise TargetSpaceError(
            f"reference.selection={selection!r} needs a data set with a length and an index, whose loader has no "
            f"iterator of its own; found {found}. Use selection='first', or override reference_batch()."
        )
    return _gathered(batches, size)


def generators_beside(trainer: Trainer, module: nn.Module) -> list[Any]:
    """The generators of random numbers that training alone draws from, as those that a data set or a hook holds.

    Not those of streams: what is read ahead of these, training receives.
    """
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    streams = {id(generator) for generator in held(*(one for one in loaders if not _is_indexed(one)))}
    found = held(module, getattr(trainer, "datamodule", None), *filter(_is_indexed, loaders))
    return [generator for generator in found if id(generator) not in streams]


def _is_indexed(loader: Any) -> bool:
    """Whether samples are taken out of a loader's data set, and not read ahead."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    # one that keeps its place has an iterator of its own for that, and in each process one of other samples
    return _iterates_plainly(loader) or keeps_place(loader)


def _iterates_plainly(loader: Any) -> bool:
    """Whether a loader has the iterator of its library, and not one of its own that may yield other batches."""
    definers = [next(kind for kind in type(loader).__mro__ if name in vars(kind)) for name in _ITERATION]
    return "_get_iterator" not in vars(loader) and all(kind.__module__.split(".")[0] in _KNOWN for kind in definers)


def _indexed(loader: Any, size: int, selection: Selection, seed: int) -> Any:
    """Samples out of a data set with an index, see :func:`reference_samples`."""
    keys = sampled_keys(loader, size if selection == "first" else None)
    if len(keys) == 0:
        raise TargetSpaceError("The reference batch is empty, because the training data set is. Expected samples.")
    generator = torch.Generator().manual_seed(seed)
    whole_batches = loader.batch_sampler is None and not isinstance(loader.sampler, BatchSampler)
    items = (loader.dataset[key] for key in keys)
    if whole_batches and _is_batch(next((item for item in items if item is not None), None)):
        return _whole_batches(loader, keys, size, selection, generator)
    if selection == "random":
        chosen = torch.randperm(len(keys), generator=generator)[:size].sort().values.tolist()
    elif selection == "balanced":
        chosen = _balanced(_labels(loader.dataset, keys), min(size, len(keys)), generator).tolist()
    else:
        chosen = list(range(min(size, len(keys))))
    batch = _fetched(loader, [keys[i] for i in chosen])
    if batch is None:
        raise TargetSpaceError(
            f"The reference batch is empty, because the loader's collate_fn returned None for "
            f"{amount(len(chosen), 'sample')}. Choose others by ReferenceConfig(size=..., selection='random'), or "
            f"override reference_batch()."
        )
    return batch


def _fetched(loader: DataLoader[Any], keys: list[Any]) -> Any:
    """The samples of these keys as one batch, fetched and collated as the loader does."""
    given: dict[str, Any] = {"generator": torch.Generator()}  # no draw from the loader's or the global random state
    if loader.num_workers and loader.worker_init_fn is not None:  # which may open what the data set reads from
        context = {"multiprocessing_context": loader.multiprocessing_context}
        given.update(num_workers=1, worker_init_fn=loader.worker_init_fn, **context)
    if loader.batch_sampler is not None:
        (batch,) = DataLoader(loader.dataset, batch_sampler=[keys], collate_fn=loader.collate_fn, **given)
    elif isinstance(loader.sampler, BatchSampler):
        (batch,) = DataLoader(loader.dataset, batch_size=None, sampler=[keys], collate_fn=loader.collate_fn, **given)
    else:
        (batch,) = DataLoader(loader.dataset, batch_sampler=[keys], **given)
    return batch


def _whole_batches(
    loader: DataLoader[Any], keys: Sequence[Any], size: int, selection: Selection, generator: torch.Generator
) -> Any:
    """Samples out of a data set whose items are batches already, as batch_size=None says."""
    if selection == "balanced":
        raise TargetSpaceError(
            "reference.selection='balanced' chooses among samples; found a data set of whole batches. Use "
            "selection='random', or override reference_batch()."
        )
    total = len(keys)
    order = torch.randperm(total, generator=generator) if selection == "random" else torch.arange(total)
    return _gathered((loader.collate_fn(loader.dataset[keys[int(i)]]) for i in order), size)


def _gathered(batches: Iterator[Any], size: int) -> Any:
    """A copy of the first ``size`` samples of the batches, or of the first batch where samples cannot be told apart."""
    kept: list[Any] = []
    held = 0
    for batch in batches:
        if batch is None:  # no samples were left of it; the training loop skips it, too
            continue
        count = batch_size(batch)
        if count is None or len({tensor.shape[0] for tensor in tensors_in(batch) if tensor.dim() > 0}) > 1:
            return fresh(batch)
        kept.append(batch)
        held += count
        if held >= size:
            break
    if held == 0:
        raise TargetSpaceError("The reference batch is empty, because the training data is. Expected samples.")
    try:
        return part(joined(kept), 0, size)
    except (RuntimeError, LookupError, TypeError) as error:
        raise TargetSpaceError(
            f"The first batches of the training data do not make one reference batch of {amount(size, 'sample')} (of "
            f"{amount(len(kept), 'batch', 'batches')}: {first_line(error)}). Override reference_batch() to return "
            f"one batch of your own, padded to one length; or ask for no more samples than a batch has, by "
            f"reference.size."
        ) from error


def _is_batch(item: Any) -> bool:
    """Whether an item is a batch rather than a sample: tensors of one length, more than vectors of numbers."""
    tensors = list(tensors_in(item))
    lengths = {tensor.shape[0] if tensor.dim() > 0 else None for tensor in tensors}
    return len(lengths) == 1 and max(tensor.dim() for tensor in tensors) > 1


def _labels(dataset: Any, keys: Sequence[Any]) -> Tensor:
    """The class of each key's sample: out of the data set's own list where it has one, else the last of the sample."""
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset, [dataset.indices[key] for key in keys])
    if isinstance(dataset, TensorDataset):
        given: Any = dataset.tensors[-1][torch.as_tensor(keys)]
    else:
        own_list = getattr(dataset, "targets", None)
        if own_list is not None:
            given = [own_list[key] for key in keys]
        else:
            sample = dataset[keys[0]]
            if not isinstance(sample, (tuple, list)):
                raise TargetSpaceError(
                    f"reference.selection='balanced' needs labels; found samples of type {type(sample).__name__}, "
                    f"expected tuples with the class last. Use selection='random', or override reference_batch()."
                )
            given = [dataset[key][-1] for key in keys]
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
    rank = torch.empty(len(labels), dtype=torch.long)  # each sample's place among the samples of its class
    for value in torch.unique(shuffled):
        places = (shuffled == value).nonzero().squeeze(1)
        rank[places] = torch.arange(len(places))
    return order[rank.argsort(stable=True)[:size]].sort().values
