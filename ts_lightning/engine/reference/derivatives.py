"""Derivatives that a forward asks for in the reference pass: they are not computed, and NaNs stand for them.

With weights that are solved from the very inputs they would be others than the trained model's. What is made of them
holds NaNs, too, so that it shows which layers depend on them; functions that would lose the NaNs are looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ts_lightning.engine.memory import memory
from ts_lightning.engine.reference.graph import leaves
from ts_lightning.engine.reference.watch import NUMBERS, flat

_RAW: Any = Tensor.grad  # which targets have otherwise
_BACKWARD: Any = torch.autograd.backward
_NUMBERS: set[Any] = {*NUMBERS, Tensor.numpy, Tensor.__array__}
#: take the form of a tensor, and none of its numbers
_FORMS = frozenset(
    (
        *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor),
        *(Tensor.zero_, Tensor.fill_, Tensor.copy_),
    )
)
#: take the numbers of the first tensor alone
_LIKE_ANOTHER = frozenset((Tensor.view_as, Tensor.reshape_as, Tensor.expand_as, Tensor.type_as, Tensor.to))


class Derivatives:
    """What stands for the derivatives of one run.

    Attributes:
        asked: whether the forward asked for any.
        lost: whether it made something of them that holds no NaN, as a comparison, so that from then on nothing says
            what depends on them.
    """

    def __init__(self) -> None:
        self.asked = self.lost = False
        self._everywhere = False  # whether a backward() gave gradients to all that it reached
        self._given: dict[int, tuple[Tensor, Tensor | None]] = {}  # tensors by id, with their gradients of before
        self._cleared: set[int] = set()  # ids of those that forward gave none, since the last backward()
        self._retaining: list[Tensor] = []  # besides the leaves of graphs

    def of(self, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Stand for ``autograd.grad``."""
        self.asked = True
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        return tuple(map(_unknown, inputs))

    def backward(self, outputs: Any, *args: Any, inputs: Any = None, **kwargs: Any) -> None:
        """Stand for ``backward``: give tensors NaNs as gradients."""
        self.asked = True
        if inputs is None:
            self._everywhere = True
            self._cleared.clear()
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        inputs = (*leaves(outputs, set()), *self._retaining) if inputs is None else inputs
        for x in (tensor for tensor in inputs if tensor.requires_grad):
            self.give(x, _unknown(x))

    def give(self, tensor: Tensor, gradient: Tensor | None) -> None:
        """Set a gradient, until the pass ends."""
        self._given.setdefault(id(tensor), (tensor, _RAW.__get__(tensor) if tensor.is_leaf else None))
        _RAW.__set__(tensor, gradient)
        (self._cleared.add if gradient is None else self._cleared.discard)(id(tensor))

    def gradient(self, tensor: Tensor, *, solved: bool) -> Tensor | None:
        """The gradient that a forward finds: NaNs behind a ``backward()``, else a copy, which it may change in place.

        Args:
            tensor: whose.
            solved: whether a solved value stands for it, which the graph has in its place.
        """
        if id(tensor) in self._given:
            found: Tensor | None = _RAW.__get__(tensor)
            if found is not None or id(tensor) in self._cleared:
                return found
        # the graph may not reach it, where layers take constants
        if self._everywhere and tensor.requires_grad and (solved or tensor.is_leaf):
            self.give(tensor, _unknown(tensor))
            return self.gradient(tensor, solved=solved)
        found = None if solved or not (tensor.is_leaf or tensor.retains_grad) else _RAW.__get__(tensor)
        return None if found is None else found.clone()

    def retain(self, tensor: Tensor) -> None:
        """Take note of a tensor that is to have a gradient, which graphs may not reach where layers take constants."""
        self._retaining.append(tensor)

    def watched(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a function, which is about to be called, takes derivatives, and may lose their NaNs."""
        if not self.asked or self.lost or function in _FORMS:
            return False
        return _nan(args[:1] if function in _LIKE_ANOTHER else (*args, *kwargs.values()))

    def look(self, function: Any, args: Sequence[Any], found: Any) -> None:
        """Note whether a function that took derivatives has lost their NaNs; views show by theirs what depends."""
        results = [one for one in flat([found]) if isinstance(one, Tensor)]
        given = {memory(one) for one in flat(args) if isinstance(one, Tensor)}
        made = [one for one in results if memory(one) not in given or any(one is other for other in flat(args))]
        self.lost = function in _NUMBERS or not all(_nan([one]) for one in made)

    def reach(self, passed: Sequence[Tensor]) -> bool:
        """Whether what a layer passed on depends on derivatives, or may do so."""
        return self.asked and (self.lost or _nan(passed))

    def put_back(self) -> None:
        """Give tensors the gradients back that they had before the pass."""
        for tensor, gradient in self._given.values():
            _RAW.__set__(tensor, gradient)


@contextmanager
def heard() -> Iterator[None]:
    """Let modes hear of ``torch.autograd.backward``, of which PyTorch tells them in later releases alone."""
    if "handle_torch_function" in _BACKWARD.__code__.co_names:
        yield
        return
    own = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        given = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
        if has_torch_function(given):
            handle_torch_function(_BACKWARD, given, tensors, *args, **kwargs)
        else:
            own(tensors, *args, **kwargs)

    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = own


@contextmanager
def without_gradients(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let tensors have no gradients for a while in which a forward may compute some, and then those of before."""
    kept = [(tensor, _RAW.__get__(tensor)) for tensor in tensors]
    for tensor, _ in kept:
        _RAW.__set__(tensor, None)
    try:
        yield
    finally:
        for tensor, gradient in kept:
            _RAW.__set__(tensor, gradient)


def _unknown(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan, requires_grad=False)


def _nan(given: Iterable[Any]) -> bool:
    """Whether a tensor among these holds a NaN, or may do so."""
    tensors = (one for one in flat(given) if isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex()))
    try:
        return any(bool(tensor.isnan().any()) for tensor in tensors)
    except (RuntimeError, NotImplementedError):  # of transforms and nested tensors, which cannot be asked
        return True
