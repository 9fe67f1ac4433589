"""Derivatives that a forward asks for in the reference pass: they are not computed, and NaNs stand for them.

With weights that are solved from the very inputs they would be others than the trained model's. What is made of them
holds NaNs, too, so that it shows which layers depend on them; functions that would lose the NaNs are looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.reference.graph import leaves
from ts_lightning.engine.reference.watch import NUMBERS, flat

_SIGNS = frozenset((torch.sign, torch.sgn, Tensor.sign, Tensor.sgn))
#: take the form of a tensor, and none of its numbers
_FORMS = frozenset(
    (
        *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor),
        *(Tensor.zero_, Tensor.fill_, Tensor.copy_),
    )
)


class Derivatives:
    """What stands for the derivatives of one run.

    Attributes:
        asked: whether the forward asked for any.
        lost: whether it made something of them that holds no NaN, as a comparison, so that from then on nothing says
            what depends on them.
    """

    def __init__(self) -> None:
        self.asked = self.lost = False
        self._given: list[tuple[Tensor, Tensor | None]] = []  # tensors whose gradient was set, with that of before
        self._retaining: list[Tensor] = []  # besides the leaves of graphs

    def of(self, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Stand for ``autograd.grad``."""
        self.asked = True
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        return tuple(torch.full_like(x, torch.nan, requires_grad=False) for x in inputs)

    def backward(self, outputs: Any, *args: Any, inputs: Any = None, **kwargs: Any) -> None:
        """Stand for ``backward``: give tensors NaNs as gradients."""
        self.asked = True
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        inputs = (*leaves(outputs, set()), *self._retaining) if inputs is None else inputs
        for x in (tensor for tensor in inputs if tensor.requires_grad):
            self.give(x, torch.full_like(x, torch.nan, requires_grad=False))

    def give(self, tensor: Tensor, gradient: Tensor | None) -> None:
        """Set a gradient, until the pass ends."""
        self._given.append((tensor, tensor.grad if tensor.is_leaf else None))
        tensor.grad = gradient

    def retain(self, tensor: Tensor) -> None:
        """Take note of a tensor that is to have a gradient, which graphs may not reach where layers take constants."""
        self._retaining.append(tensor)

    def marked(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], found: Any) -> Any:
        """The result of a function, with the NaN of a derivative that its sign would lose; notes other losses."""
        if function in _SIGNS:
            return found.masked_fill(args[0].isnan(), torch.nan)
        if not self.lost and function not in _FORMS and _nan((*args, *kwargs.values())):
            results = (one for one in flat([found]) if isinstance(one, Tensor))
            self.lost = function in NUMBERS or not all(_nan([one]) for one in results)
        return found

    def reach(self, passed: Sequence[Tensor]) -> bool:
        """Whether what a layer passed on depends on derivatives, or may do so."""
        return self.asked and (self.lost or _nan(passed))

    def put_back(self) -> None:
        """Give tensors the gradients back that they had before the pass."""
        for tensor, gradient in reversed(self._given):
            tensor.grad = gradient


def _nan(given: Sequence[Any]) -> bool:
    """Whether a tensor among these holds a NaN."""
    tensors = (one for one in flat(given) if isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex()))
    return any(bool(tensor.isnan().any()) for tensor in tensors)
