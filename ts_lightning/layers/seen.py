"""What a forward has made of a weight that holds the same numbers: in another shape or order, times a constant factor.

Views, transposes, permutations and products with constants are followed from the parameter on. Each can be undone, so
that a weight that is solved as a function applies it gives the parameter's value. Slices are parts of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ts_lightning.layers.part import Region

Shape = tuple[int, ...]
#: the id of a parameter, and which part of it
Key = tuple[int, Region | None]


@dataclass(frozen=True)
class Arrangement:
    """The numbers of a tensor in another shape and order.

    Attributes:
        given: the tensor's own shape.
        steps: reshapes, permutations and flips, one after the other: each with the shape ahead of it.
    """

    given: Shape
    steps: tuple[tuple[str, Shape, Shape], ...] = ()

    @property
    def shape(self) -> Shape:
        """The shape behind all steps."""
        if not self.steps:
            return self.given
        kind, ahead, argument = self.steps[-1]
        return argument if kind == "reshape" else tuple(ahead[d] for d in argument) if kind == "permute" else ahead

    def reshape(self, *shape: int) -> Arrangement:
        """The same numbers, in their C order, in another shape."""
        if self.steps and self.steps[-1][0] == "reshape":
            return self._before.reshape(*shape)
        return self if shape == self.shape else self._then("reshape", shape)

    def permute(self, *dims: int) -> Arrangement:
        """The same, with the dimensions in another order."""
        shape = self.shape
        if self.steps and self.steps[-1][0] == "permute":
            last = self.steps[-1][2]
            return self._before.permute(*(last[d] for d in dims))
        moved = [d for d in dims if shape[d] != 1]
        return self.reshape(*(shape[d] for d in dims)) if moved == sorted(moved) else self._then("permute", dims)

    def flip(self, *dims: int) -> Arrangement:
        """The same, backwards along these dimensions."""
        return self._then("flip", dims) if any(self.shape[d] > 1 for d in dims) else self

    def of(self, value: Tensor) -> Tensor:
        """A value of the tensor, arranged so."""
        for kind, _, argument in self.steps:
            value = getattr(value, kind)(argument)
        return value

    def back(self, value: Tensor) -> Tensor:
        """The inverse of :meth:`of`."""
        for kind, ahead, argument in reversed(self.steps):
            if kind == "reshape":
                value = value.reshape(ahead)
            elif kind == "permute":
                value = value.permute([argument.index(d) for d in range(len(argument))])
            else:
                value = value.flip(argument)
        return value

    @property
    def _before(self) -> Arrangement:
        return Arrangement(self.given, self.steps[:-1])

    def _then(self, kind: str, argument: Shape) -> Arrangement:
        return Arrangement(self.given, (*self.steps, (kind, self.shape, argument)))


@dataclass(frozen=True)
class Seen:
    """A parameter, or what a call made of it.

    Attributes:
        weight: the parameter.
        arrangement: of its numbers, or of those of a part of it.
        factor: what they are multiplied with: a number, or a tensor of one number or of the parameter's shape; None for
            nothing.
        region: which part of the parameter it is; None for all of it.
        expanded: the shape of the tensor, where dimensions of size 1 are repeated in it; None where none are.
    """

    weight: Tensor
    arrangement: Arrangement
    factor: float | Tensor | None = None
    region: Region | None = None
    expanded: Shape | None = None

    @classmethod
    def itself(cls, weight: Tensor) -> Seen:
        """The parameter."""
        return cls(weight, Arrangement(tuple(weight.shape)))

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.arrangement.shape

    @property
    def key(self) -> Key:
        """Says which parameter, or which part of one, it is."""
        return id(self.weight), self.region

    def is_part(self, key: Key) -> bool:
        """Whether it is that part of a parameter, as it is."""
        as_it_is = self.factor is None and self.expanded is None and not self.arrangement.steps
        return self.key == key and as_it_is

    def arranged(self, arrangement: Arrangement) -> Seen:
        """The same numbers in another arrangement."""
        return replace(self, arrangement=arrangement)

    def times(self, factor: float | Tensor) -> Seen:
        """The product with a number, or with a tensor that is broadcast to the shape."""
        if isinstance(factor, Tensor):
            single = factor.numel() == 1
            factor = factor.reshape(()) if single else self.arrangement.back(factor.expand(self.shape))
        return replace(self, factor=factor if self.factor is None else self.factor * factor)

    def repeated(self, shape: Shape) -> Seen | None:
        """The same with dimensions of size 1 repeated to this shape; None where others would be."""
        own = (*(1,) * (len(shape) - len(self.shape)), *self.shape)
        if self.expanded is not None or any(n not in (m, 1) for n, m in zip(own, shape, strict=True)):
            return None
        return replace(self, arrangement=self.arrangement.reshape(*own), expanded=None if own == shape else shape)

    def cut(self, function: Callable[[Tensor], Any]) -> list[Seen] | None:
        """The parts that a function gives as views; None where it gives something else."""
        if self.expanded is not None or (isinstance(self.factor, Tensor) and self.factor.numel() > 1):
            return None
        with torch.inference_mode(False):  # where no view says of what it is one
            whole = torch.empty(self.weight.shape, device="meta")
            found = function(self.arrangement.of(whole if self.region is None else self.region.of(whole)))
        parts = [found] if isinstance(found, Tensor) else list(found)
        if any(part._base is not whole or part.numel() == 0 for part in parts):
            return None
        return [self._part(part) for part in parts]

    def _part(self, view: Tensor) -> Seen:
        """What a view of the parameter is, or of another one in its C order."""
        wide = [d for d, n in enumerate(view.shape) if n > 1] or [*range(view.dim())][:1]
        order = sorted(wide, key=view.stride, reverse=True)
        size, stride = (tuple(of[d] for d in order) for of in (view.shape, view.stride()))
        region = None if view.numel() == self.weight.numel() else Region(int(view.storage_offset()), size, stride)
        given = Arrangement(tuple(self.weight.shape)).reshape(*size) if region is None else Arrangement(size)
        arrangement = given.permute(*map(order.index, wide)).reshape(*view.shape)
        return Seen(self.weight, arrangement, self.factor, region)


#: for a tensor that holds a weight, what it is of it; None for others
Known = Callable[[Any], "Seen | None"]


def nowhere_zero(factor: float | Tensor) -> bool | Tensor:
    """Whether a factor has no zeros; a tensor for a tensor, which is not read."""
    return (factor != 0).all() if isinstance(factor, Tensor) else factor != 0


def followed(
    known: Known,
    constant: Callable[[Any], bool],
    function: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    found: Any,
) -> Seen | None:
    """What a call made of a weight; None where that holds other numbers, or of no weight.

    Args:
        known: what tensors are of weights.
        constant: whether a factor of a weight is a constant.
        function: that was called.
        args: its arguments.
        kwargs: those by name.
        found: what it gave.
    """
    if function in _SCALINGS:
        return None if kwargs else _scaled(known, constant, function, args, found)
    seen = known(args[0]) if args else None
    if seen is None or not isinstance(found, Tensor) or found.dtype != seen.weight.dtype:  # another reading
        return None
    if function in _REPEATS:
        return seen.repeated(tuple(found.shape))
    if seen.expanded is not None:
        return None
    arrangement = seen.arrangement
    if function in _PERMUTATIONS:
        # which dimension went where shows on one in which no two are of a size
        sizes = range(2, len(seen.shape) + 2)
        probe = function(torch.empty(tuple(sizes), device="meta"), *args[1:], **kwargs)
        return seen.arranged(arrangement.permute(*map(sizes.index, probe.shape)))
    if function in _CASTS:
        return seen if found is args[0] else None
    if function in _VIEWS or (function is Tensor.__getitem__ and _adds_dimensions(args[1])):
        return seen.arranged(arrangement.reshape(*found.shape))
    return None


def cut(
    known: Known, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], found: Any
) -> list[tuple[Seen, Tensor]]:
    """The parts of a weight that a call of one of :data:`CUTS` gave, each with its tensor; none where others.

    The arguments are those of :func:`followed`.
    """
    seen = known(args[0]) if args else None
    if seen is None or (function is Tensor.__getitem__ and not _takes_slices(args[1])):
        return []
    parts = seen.cut(lambda whole: function(whole, *args[1:], **kwargs))
    return list(zip(parts or (), [found] if isinstance(found, Tensor) else found, strict=parts is not None))


def _scaled(
    known: Known, constant: Callable[[Any], bool], function: Any, args: Sequence[Any], found: Any
) -> Seen | None:
    """The same of a function in :data:`_SCALINGS`."""
    seen = known(args[0]) if args else None
    if seen is None and function not in _PRODUCTS:
        return None
    if function in _NEGATIVES:
        return None if seen is None else seen.times(-1.0)
    if len(args) != 2:
        return None
    factor = args[1]
    if seen is None:
        seen, factor = known(args[1]), args[0]
    real = isinstance(factor, (int, float)) or (isinstance(factor, Tensor) and known(factor) is None)
    if seen is None or not real or found.shape != seen.shape or found.dtype != seen.weight.dtype:
        return None
    if not constant(factor):
        return None
    if isinstance(factor, Tensor):  # whole numbers in the weight's precision
        factor = factor.to(torch.promote_types(factor.dtype, found.dtype))
    if function in _QUOTIENTS:
        factor = 1 / factor if isinstance(factor, Tensor) or factor else 0.0
    return seen.times(factor)


def _adds_dimensions(index: Any) -> bool:
    """Whether an index takes all entries."""
    return all(
        entry is None or entry is ... or (type(entry) is slice and entry == slice(None)) for entry in _entries(index)
    )


def _takes_slices(index: Any) -> bool:
    """Whether an index takes entries by their places alone."""
    return all(entry is None or entry is ... or type(entry) in (int, slice) for entry in _entries(index))


def _entries(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


_PERMUTATIONS: set[Any] = {
    *(torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__, torch.permute, Tensor.permute),  # type: ignore[attr-defined]
    *(torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes, torch.swapdims, Tensor.swapdims),
    *(torch.movedim, Tensor.movedim, torch.moveaxis, Tensor.moveaxis),
}
#: give the same numbers in the same order in another shape
_VIEWS: set[Any] = {
    *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, torch.reshape, Tensor.reshape),
    *(Tensor.view, Tensor.view_as, Tensor.reshape_as, torch.flatten, Tensor.flatten, torch.unflatten, Tensor.unflatten),
    *(torch.ravel, Tensor.ravel, Tensor.contiguous),
}
#: give the tensor itself where it is as asked
_CASTS: set[Any] = {Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.type, Tensor.type_as}
#: give the same numbers several times
_REPEATS: set[Any] = {Tensor.expand, Tensor.expand_as, Tensor.broadcast_to, torch.broadcast_to, Tensor.repeat}
#: give parts of the numbers, in their order
CUTS: set[Any] = {
    *(Tensor.__getitem__, torch.select, Tensor.select, torch.narrow, Tensor.narrow, torch.unbind, Tensor.unbind),
    *(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.split_with_sizes, Tensor.split_with_sizes),
    *(torch.tensor_split, Tensor.tensor_split, torch.unsafe_chunk, Tensor.unsafe_chunk),
    *(torch.vsplit, Tensor.vsplit, torch.hsplit, Tensor.hsplit, torch.dsplit, Tensor.dsplit),
}
_NEGATIVES: set[Any] = {torch.neg, Tensor.neg, Tensor.__neg__, torch.negative, Tensor.negative}
_PRODUCTS: set[Any] = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply, Tensor.multiply}
_QUOTIENTS: set[Any] = {
    *(torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide, Tensor.true_divide, torch.divide, Tensor.divide),
}
_SCALINGS = _NEGATIVES | _PRODUCTS | _QUOTIENTS
