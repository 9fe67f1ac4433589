"""The training loop's own data: which loader it iterates, and its batches read ahead without any loss.

What is read ahead is given back in front of the loop's iterator, so that training sees every batch, in order and once:
also of a loader that is its own iterator, and of a stream that gives its samples once. A loader that keeps its place
(``state_dict`` and ``load_state_dict``) is put back to it instead, so that its checkpoints are not shifted.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain
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


def read_ahead(trainer: Trainer) -> Generator[Any]:
    """The batches of the training loop's one loader that are still to come; close it to give them back."""
    fetcher, combined = trainer.fit_loop._data_fetcher, trainer.fit_loop._combined_loader
    assert fetcher is not None
    assert isinstance(combined, CombinedLoader)
    mode = combined._iterator
    assert mode is not None
    for batch, _, _ in getattr(fetcher, "batches", []):  # fetched by the loop already, which keeps them
        yield batch
    (loader,), (iterator,) = combined.flattened, mode.iterators
    keeps_place = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    place = loader.state_dict() if keeps_place else None
    taken: list[Any] = []
    try:
        for batch in iterator:
            taken.append(batch)
            yield batch
    finally:
        if keeps_place:
            loader.load_state_dict(place)
            mode.iterators[0] = iter(loader)
        else:
            mode.iterators[0] = chain(taken, iterator)
