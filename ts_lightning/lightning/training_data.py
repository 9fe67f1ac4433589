"""The training loop's own data: which loader it iterates, and its batches read ahead without any loss.

What is read ahead is given back in front of the loop's iterator, so that training sees every batch, in order and once:
also of a loader that is its own iterator, and of a stream that gives its samples once. A loader that keeps its place
(``state_dict`` and ``load_state_dict``) is put back to it instead, so that its checkpoints are not shifted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader

from ts_lightning.errors import TargetSpaceError


def training_loader(trainer: Trainer) -> Any:
    """The loader that the training loop iterates, or its collection of several.

    Raises:
        TargetSpaceError: there is none.
    """
    combined = trainer.fit_loop._combined_loader
    if combined is None:
        raise TargetSpaceError(
            "The reference batch is taken from the training data, and there is none. Give a train_dataloader, or "
            "override reference_batch()."
        )
    return combined.iterables


def each(loaders: Any, value: Any) -> Iterator[Any]:
    """What ``value`` has in the place of each of the loaders, in their order."""
    if isinstance(loaders, Mapping):
        for key, within in loaders.items():
            yield from each(within, value[key])
    elif isinstance(loaders, (list, tuple)):
        for within, item in zip(loaders, value, strict=True):
            yield from each(within, item)
    else:
        yield value


def filled(loaders: Any, values: Iterator[Any]) -> Any:
    """The collection of loaders with the next of ``values`` in the place of each, as its batches are."""
    if isinstance(loaders, Mapping):
        return {key: filled(within, values) for key, within in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        items = [filled(within, values) for within in loaders]
        return type(loaders)(*items) if hasattr(loaders, "_fields") else type(loaders)(items)
    return next(values)


def read_ahead(trainer: Trainer, place: int = 0) -> Generator[Any]:
    """The batches that are still to come of one loader of the training loop's; close it to give them back.

    Args:
        trainer: in a fit.
        place: which of several loaders.
    """
    fetcher, combined = trainer.fit_loop._data_fetcher, trainer.fit_loop._combined_loader
    assert fetcher is not None
    assert isinstance(combined, CombinedLoader)
    mode = combined._iterator
    assert mode is not None
    for batch, _, _ in getattr(fetcher, "batches", []):  # fetched by the loop already, which keeps them
        yield next(islice(each(combined.iterables, batch), place, None))
    loader, iterator = combined.flattened[place], mode.iterators[place]
    keeps_place = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    kept = loader.state_dict() if keeps_place else None
    taken: list[Any] = []
    try:
        for batch in iterator:
            taken.append(batch)
            yield batch
    finally:
        if keeps_place:
            loader.load_state_dict(kept)
            mode.iterators[place] = iter(loader)
        else:
            mode.iterators[place] = chain(taken, iterator)
