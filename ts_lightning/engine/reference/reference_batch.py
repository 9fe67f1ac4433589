"""The reference batch as one value: its samples, which of them are this process's, and how the model is run on them.

A batch is of any form that the model takes: a tensor, tensors in tuples, lists and mappings, whose first dimension is
the samples, or a function without arguments that runs the model on samples of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ts_lightning.engine.running.batches import channels_last, is_plain, joined, mapped, own, part, plain, tensors_in
from ts_lightning.engine.running.copies import fresh
from ts_lightning.errors import TargetSpaceError, first_line
from ts_lightning.ridge.processes import Shards

#: what a user gives: the model's input, its inputs, or a function that runs the model
Reference = Tensor | Sequence[Any] | Mapping[str, Any] | Callable[[], Any]


@dataclass(frozen=True)
class ReferenceBatch:
    """The reference batch of a model.

    Attributes:
        model: what is run on the batch.
        data: the samples, or a function without arguments that runs the model.
        forward: runs the model on a batch; ``None`` calls it with the batch's items.
        shards: the processes that share the samples, of which ``data`` holds this process's; ``None`` where it holds
            all of them.
        seed: where the random numbers that a forward draws start, the same in every run.
    """

    model: nn.Module
    data: Any
    forward: Callable[[Any], Any] | None = None
    shards: Shards | None = None
    seed: int = 0

    @classmethod
    def of(
        cls, model: nn.Module, given: Reference, forward: Callable[[Any], Any] | None = None, seed: int = 0
    ) -> ReferenceBatch:
        """The whole of what a user gives, in memory of its own, since users may write to theirs."""
        return cls(model, given if callable(given) else fresh(given), forward, seed=seed)

    def run(self) -> Any:
        """Run the model on a fresh copy of the samples, since a forward may change its input in place.

        Raises:
            TargetSpaceError: the batch is of no form that a model is called with, or holds other items than ``forward``
                takes, or numbers in the place of tensors, which it does not take.
        """
        try:
            return self._run()
        except (AttributeError, TypeError) as error:
            if (numbers := _numbers(self.data)) is None:
                raise
            raise TargetSpaceError(
                f"The reference batch holds no tensor, but {numbers}, which the model does not take "
                f"({first_line(error)}). Expected tensors, as of torch.as_tensor."
            ) from error

    def _run(self) -> Any:
        data = self.data
        if self.forward is not None:
            return self.forward(fresh(data))
        if isinstance(data, Tensor):
            return self.model(own(data))
        if isinstance(data, (Mapping, tuple, list)):
            named = isinstance(data, Mapping)
            try:
                return self.model(**fresh(data)) if named else self.model(*fresh(data))
            except TypeError as error:
                if (takes := _misfit(self.model, data)) is not None:
                    raise _not_taken(self.model, data, takes, error) from error
                raise  # of what forward does
        if callable(data):
            return data()
        raise TargetSpaceError(
            f"reference: found {type(data).__name__}; expected a tensor, a tuple of the model's inputs, or a function "
            f"that runs the model."
        )

    @property
    def samples(self) -> int:
        """The number of samples in the whole batch.

        Raises:
            TargetSpaceError: nothing tells which part of the batch belongs to which sample.
        """
        if self.shards is not None:
            return self.shards.samples
        lengths = None if callable(self.data) else {t.shape[0] for t in tensors_in(self.data) if t.dim() > 0}
        if lengths is None or len(lengths) != 1:
            found = "a function" if lengths is None else f"tensors of lengths {sorted(lengths)}"
            raise TargetSpaceError(
                f"The reference batch cannot be shared between processes: found {found}; expected tensors whose first "
                f"dimension is the samples. Use reference.shard=False."
            )
        return lengths.pop()

    def share(self, shards: Shards) -> ReferenceBatch:
        """This process's share of the whole batch."""
        return replace(self, data=part(self.data, *shards.bounds(shards.rank)), shards=shards)

    def channels_last(self) -> ReferenceBatch | None:
        """The batch with images in channels-last layout; None where that changes nothing."""
        data = self.data if callable(self.data) else mapped(self.data, channels_last)
        same = all(new is old for new, old in zip(tensors_in(data), tensors_in(self.data), strict=True))
        return None if same else replace(self, data=data)

    def state_dict(self) -> dict[str, Any]:
        """The whole batch in built-in types, None for a function; whether it is of such types itself; and the seed.

        Where processes share the batch, all of them have to call this, and each is given the whole.
        """
        if callable(self.data):
            whole = None
        elif self.shards is None:
            whole = plain(self.data)
        else:
            whole = joined(self.shards.objects(mapped(plain(self.data), lambda tensor: tensor.cpu())))
        return {"reference": whole, "plain": is_plain(self.data), "seed": self.seed}


def _numbers(data: Any) -> str | None:
    """In which form a batch of numbers without any tensor has them; ``None`` for any other batch."""
    if isinstance(data, Mapping):
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        found = {_numbers(item) for item in data}
        return found.pop() if len(found) == 1 else None
    if hasattr(data, "__array__") and not isinstance(data, Tensor):
        return "NumPy arrays"
    return "lists of numbers" if isinstance(data, (int, float)) else None


def _misfit(model: nn.Module, data: Mapping[str, Any] | Sequence[Any]) -> str | None:
    """The parameters of a model's ``forward``, if it cannot be called with the items of ``data``."""
    try:
        signature = inspect.signature(type(model).forward)
    except (TypeError, ValueError):  # of a forward that is not written in Python
        return None
    try:
        if isinstance(data, Mapping):
            signature.bind(model, **data)
        else:
            signature.bind(model, *data)
    except TypeError:
        return ", ".join(list(signature.parameters)[1:])
    return None


def _not_taken(
    model: nn.Module, data: Mapping[str, Any] | Sequence[Any], takes: str, error: Exception
) -> TargetSpaceError:
    """The error of a reference batch whose items are not those that ``forward`` takes."""
    items = ", ".join(map(str, data)) if isinstance(data, Mapping) else f"{len(data)} items"
    return TargetSpaceError(
        f"The reference batch is what forward is called with, without labels: found a {type(data).__name__} of "
        f"{items}; {type(model).__name__}.forward takes ({takes}). Give the inputs alone (x, and not (x, y)), or a "
        f"function that runs the model, as in lambda: model(x). ({first_line(error)})"
    )
