"""The training loop's own data: which loader it iterates, and its batches read ahead without any loss.

What is read ahead is given back in front of the loop's iterator, so that training sees every batch, in order and once:
also of a loader that is its own iterator, and of a stream that gives its samples once. A loader that keeps its place
(``state_dict`` and ``load_state_dict``) is put back to it instead, so that its checkpoints are not shifted. What
another one drew from the global random states stays drawn, since it goes on behind the batches read ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng

from ts_lightning.engine.running.batches import batch_size, sequence
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


def refused(trainer: Trainer) -> bool:
    """Whether Lightning is about to refuse the loaders, since they would follow one another; training takes none so."""
    return getattr(trainer.fit_loop._combined_loader, "_mode", None) == "sequential"


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
        return sequence(loaders, [filled(within, values) for within in loaders])
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
    if keeps_place(loader):
        kept = loader.state_dict()
        try:
            yield from iterator
        finally:
            loader.load_state_dict(kept)
            mode.iterators[place] = iter(loader)
        return
    ahead = iterator if isinstance(iterator, _Ahead) else _Ahead(iterator)
    mode.iterators[place] = ahead
    yield from ahead.look()


def keeps_place(loader: Any) -> bool:
    """Whether a loader saves where it is, and goes on from there."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def training_batch_size(trainer: Trainer | None) -> int | None:
    """How many samples the batches of the training loop's first loader have: as it says, or as its next one shows."""
    combined = None if trainer is None else trainer.fit_loop._combined_loader
    loader = next(iter(combined.flattened), None) if combined is not None else None
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if isinstance(size, int):
        return size
    if trainer is None or getattr(combined, "_iterator", None) is None:
        return None
    with closing(read_ahead(trainer)) as ahead:
        return batch_size(next(ahead, None))


@contextmanager
def isolated(trainer: Trainer) -> Iterator[None]:
    """Put the global random states back afterwards, to where streams left them that were read ahead within."""
    with isolate_rng(include_cuda=trainer.strategy.root_device.type == "cuda"):
        yield
    combined = trainer.fit_loop._combined_loader
    for iterator in getattr(getattr(combined, "_iterator", None), "iterators", ()):
        if isinstance(iterator, _Ahead) and iterator.left is not None:
            _set_rng_states(iterator.left)
            iterator.left = None


class _Ahead:
    """An iterator that gives what was read ahead again, and then goes on.

    Attributes:
        left: the global random states as the last reading ahead left them.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator
        self.left: dict[str, Any] | None = None
        self._taken: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._taken.popleft() if self._taken else next(self.iterator)

    def look(self) -> Iterator[Any]:
        """The batches that are still to come, which stay so."""
        yield from list(self._taken)
        for batch in self.iterator:
            self._taken.append(batch)
            on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            self.left = _collect_rng_states(include_cuda=on_cuda)
            yield batch
