"""Parts of one parameter that are layers of their own: the slices of a fused projection, the weights of a stack.

A :class:`Part` is a view of the parameter that holds it. What belongs to the whole, as its gradient and whether it is
trained, is read off the whole, so that the engine handles a part as it does a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_DATA: Any = Tensor.data
_ABSENT = "_ts_lightning_absent"  # on a gradient: the ids of parts that have none, and its version then


@dataclass(frozen=True)
class Region:
    """Some of the numbers of a tensor, as a strided view of them in their C order.

    Attributes:
        offset: of the first number.
        size: of each dimension; none is 1.
        stride: of each dimension; they descend.
    """

    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, value: Tensor) -> Tensor:
        """The part of a contiguous tensor, in the same memory."""
        return value.as_strided(self.size, self.stride, value.storage_offset() + self.offset)


def is_partition(whole: Tensor, regions: Iterable[Region]) -> bool | None:
    """Whether regions make a whole, each number once; None where two of them have one in common."""
    counts = torch.zeros(whole.shape, dtype=torch.int32)
    for region in regions:
        region.of(counts).add_(1)
    return None if bool((counts > 1).any()) else bool((counts == 1).all())


class Part(nn.Parameter):
    """A part of a parameter.

    Attributes:
        whole: the parameter.
        region: which of its numbers.
        parts: how many parts the whole has.
    """

    whole: nn.Parameter
    region: Region
    parts: int
    _seen: tuple[Tensor, Tensor] | None  # the whole's gradient, and the part of it

    def __new__(cls, whole: nn.Parameter, region: Region, parts: int) -> Part:
        """A view of a contiguous parameter."""
        part: Part = Tensor._make_subclass(cls, region.of(whole.detach()), False)
        part.whole, part.region, part.parts, part._seen = whole, region, parts, None
        return part

    def __init__(self, whole: nn.Parameter, region: Region, parts: int) -> None:
        """See ``__new__``."""

    @classmethod
    def of(cls, whole: nn.Parameter, regions: Sequence[Region]) -> list[Part]:
        """The parts that make a whole."""
        return [cls(whole, region, len(regions)) for region in regions]

    @property
    def grad(self) -> Tensor | None:  # type: ignore[override]
        """The part of the whole's gradient, the same tensor as long as that is; None where this part was cleared.

        Once a backward pass or somebody else gives one, the parts that were cleared have zeros, as the whole has.
        """
        gradient: Any = self.whole.grad
        if gradient is None:
            self._seen = None
            return None
        absent, at = getattr(gradient, _ABSENT, ((), None))
        if id(self) in absent and at == gradient._version:
            return None
        if self._seen is None or self._seen[0] is not gradient:
            if not gradient.is_contiguous():
                self.whole.grad = gradient = gradient.contiguous()
            self._seen = gradient, self.region.of(gradient)
        return self._seen[1]

    @grad.setter
    @torch.no_grad()
    def grad(self, value: Tensor | None) -> None:
        present: Any = self.whole.grad
        if value is not None:
            if self._seen is not None and value is self._seen[1] and present is self._seen[0]:
                return
            if present is None:
                self.whole.grad = present = torch.zeros_like(self.whole, memory_format=torch.contiguous_format)
            self._mark(present, set())
            own = self.grad
            assert own is not None
            own.copy_(value)
        elif present is not None:
            absent, at = getattr(present, _ABSENT, ((), None))
            absent = {*(absent if at == present._version else ()), id(self)}
            if len(absent) == self.parts:
                self.whole.grad = None
                return
            self.region.of(present).zero_()  # to which a backward pass may add
            self._mark(present, absent)

    @staticmethod
    def _mark(gradient: Any, absent: set[int]) -> None:
        setattr(gradient, _ABSENT, (absent, gradient._version))

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        """The whole's."""
        return self.whole.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.whole.requires_grad = value

    def requires_grad_(self, requires_grad: bool = True) -> Part:
        """Train the whole, or freeze it."""
        self.whole.requires_grad_(requires_grad)
        return self

    def follow(self) -> None:
        """Be a view of what the whole holds, where ``data`` was given another tensor, as by a move to a device.

        One that is not contiguous is laid out anew.
        """
        held = self.whole.detach()
        if not held.is_contiguous():
            self.whole.data = held = held.contiguous()
        now = self.region.of(held)
        if now.data_ptr() != self.data_ptr() or now.dtype != self.dtype:
            _DATA.__set__(self, now)

    def __deepcopy__(self, memo: dict[int, Any]) -> Part:
        """The same part of a copy of the whole."""
        return type(self)(deepcopy(self.whole, memo), self.region, self.parts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle with the whole."""
        return type(self), (self.whole, self.region, self.parts)


def key_of(parameter: Tensor) -> tuple[int, Region | None]:
    """The id of a parameter, or of the whole that a part is of; and which part it is."""
    return (id(parameter.whole), parameter.region) if type(parameter) is Part else (id(parameter), None)


def whole_of(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter that a part is of; otherwise itself."""
    return parameter.whole if type(parameter) is Part else parameter


def wholes_of(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that hold these, each once."""
    return list(dict.fromkeys(map(whole_of, parameters)))
