"""What functions do with the parameters of a model in a dry run, outside of the layers that stand for modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.memory import memory
from ts_lightning.engine.reference.call_sites import handed_to_a_transform, passes_by, unfit_site
from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.engine.running.written import written_in
from ts_lightning.layers.applied import Applied, Form
from ts_lightning.layers.seen import Key, Seen, nowhere_zero

SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]
#: make numbers of a tensor, and no other tensor
NUMBERS: set[Any] = {
    *(Tensor.item, Tensor.tolist, Tensor.equal, torch.equal, Tensor.allclose, torch.allclose, Tensor.is_nonzero),
    *(torch.is_nonzero, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__bool__, Tensor.__complex__),
    *(Tensor.__contains__, Tensor.data_ptr, Tensor.untyped_storage),
}
WRITTEN = "written by forward"
WITH_ZEROS = "multiplied by a mask with zeros"
IN_SEVERAL_WAYS = "applied in several ways"
IN_PART = "only a part of it is applied"
OVERLAPPING = "applied in parts that overlap"
NOT_CONTIGUOUS = "applied in parts, and not contiguous"


@dataclass(frozen=True)
class Noted:
    """A call that applies a weight.

    Attributes:
        seen: the weight, as the function was given it.
        form: how it is applied.
        bias: what is added to the layer's output, and may be its own.
        added: what that is of a parameter; None where it is of none.
        why: why no layer can be solved there, in a few words; None where it can.
    """

    seen: Seen
    form: Form
    bias: Tensor | None
    added: Seen | None
    why: str | None


class Watch:
    """What functions do with parameters.

    Args:
        parameters: to watch.
        model: whose buffers and frozen parameters may scale weights.

    Attributes:
        calls: that apply a parameter as a layer's weight, by its id.
        others: the names of other functions that were given a parameter, by its id.
        unfit: why the layer of a parameter, or of a part of one, cannot be solved whatever else is made of it; see
            :attr:`Seen.key`.
        transformed: the ids of parameters that were arguments of a transform of ``torch.func``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], model: nn.Module) -> None:
        self.parameters = {id(parameter): parameter for parameter in parameters}
        self.calls: dict[int, list[Noted]] = {}
        self.others: dict[int, list[str]] = {}
        # runs have copies of those that earlier ones wrote to, so that no write to these shows
        self.unfit: dict[Key, str] = {(key, None): WRITTEN for key in written_in(model) & self.parameters.keys()}
        self.transformed: set[int] = set()
        self._model = model
        self._data: dict[int, tuple[Tensor, Tensor]] = {}  # by id of the ``data`` of a parameter: this, and itself

    def applied(self, call: Applied, added: Seen | None) -> Applied | None:
        """Take note of a call that applies a weight, and of what it adds; None where it is no use of a layer."""
        key, why = call.seen.key, unfit_site()
        calls = self.calls.setdefault(id(call.weight), [])
        calls.append(Noted(call.seen, call.form, call.bias, added, why))
        if call.weight.is_complex():
            self.unfit.setdefault(key, "complex weights")
        elif why is not None and not passes_by(why):
            self.unfit.setdefault(key, why)
        elif call.seen.factor is not None and not nowhere_zero(call.seen.factor):
            self.unfit.setdefault(key, WITH_ZEROS)
        elif not _alike(call.seen.factor, next(one.seen.factor for one in calls if one.seen.key == key)):
            self.unfit.setdefault(key, IN_SEVERAL_WAYS)
        return None if key in self.unfit else call

    def why_unfit(self, parameter: Tensor) -> str | None:
        """Why no layer of a parameter, or of one of its parts, can be solved, in a few words; None where nothing is."""
        return next((why for (key, _), why in self.unfit.items() if key == id(parameter)), None)

    def constant(self, factor: Any) -> bool:
        """Whether a factor of a weight is none that is trained, or follows the data.

        It is one number, or those of a buffer or a frozen parameter.
        """
        if not isinstance(factor, Tensor):
            return True
        if factor.requires_grad or factor.is_complex():
            return False
        if factor.numel() == 1:
            return True
        model = self._model
        held = (*model.buffers(), *(p for p in model.parameters() if not p.requires_grad))
        return memory(factor) in map(memory, held)

    def before(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, int]]:
        """The arguments of a call that are parameters or their ``data``: each with the parameter and its version."""
        found = []
        given = list(flat((*args, *kwargs.values())))
        self.transformed.update(id(t) for t in handed_to_a_transform(given) if id(t) in self.parameters)
        for argument in given:
            parameter = self._parameter(argument)
            if parameter is not None:
                found.append((argument, parameter, argument._version))
        return found

    def after(self, function: Any, args: Sequence[Any], before: Sequence[tuple[Tensor, Tensor, int]]) -> None:
        """Take note of the call if it wrote to a parameter, itself or its ``data``."""
        for tensor, parameter, version in before:
            if tensor is args[0] if function == SET_DATA else tensor._version != version:
                self.unfit.setdefault((id(parameter), None), WRITTEN)

    def data(self, tensor: Tensor, found: Tensor) -> None:
        """Take note of the ``data`` of a tensor."""
        parameter = self._parameter(tensor)
        if parameter is not None:
            self._data[id(found)] = (parameter, found)

    def other(self, function: Any, weights: Sequence[Tensor], found: Any) -> None:
        """Take note of another function, if it makes tensors or numbers of what it is given."""
        owner = getattr(function, "__self__", None)  # of a property; a module of PyTorch's own functions
        owner = None if isinstance(owner, ModuleType) else owner
        name = str(getattr(owner, "__name__", "") or getattr(function, "__name__", function)).strip("_")
        for weight in weights:
            if function in NUMBERS or any(t is not weight for t in tensors_in(found)):
                self.others.setdefault(id(weight), []).append(name)

    def _parameter(self, tensor: Any) -> Tensor | None:
        """The parameter that a tensor is, or is the ``data`` of."""
        return self.parameters.get(id(tensor), self._data.get(id(tensor), (None,))[0])


def flat(given: Iterable[Any]) -> Iterator[Any]:
    """What a call is given, with the entries of lists, tuples and dictionaries."""
    for value in given:
        if isinstance(value, (list, tuple, dict)):
            yield from flat(value.values() if isinstance(value, dict) else value)
        else:
            yield value


def _alike(one: float | Tensor | None, other: float | Tensor | None) -> bool:
    """Whether two factors are the same."""
    if one is other or one is None or other is None:  # of two forms, if only one is none
        return True
    return bool((torch.as_tensor(one).cpu() == torch.as_tensor(other).cpu()).all())
