"""The parameter that stands for a layer's weights in an optimizer: its targets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.ridge.processes import Shards

_GRAD: Any = torch.Tensor.grad
_DATA: Any = torch.Tensor.data
_CLEARING = "zero_grad"  # of optimizers and of wrappers, as that of Lightning Fabric, whatever stands on an instance
_UNSCALING = "_unscale_grads_"  # of torch's gradient scalers, which say nothing to the optimizer that they unscale
READ = "_ts_lightning_read"  # on a weight's gradient: its version when that of its target was read, ahead of it


class Target(nn.Parameter):
    """The targets of one layer.

    An ordinary Parameter but for three things. Reading ``grad`` first calls :attr:`before_reading`, where one is set,
    so that whoever asks for one (clipping, a scaler, an optimizer, a user) finds that of the weights pulled back.
    Clearing it, as the ``zero_grad`` of every optimizer does, clears those of :attr:`weights`, also ahead of a
    pull-back. And a change through ``data`` counts as a change: ``target.data.add_(1)`` moves ``target._version``.

    Attributes:
        before_reading: called before a gradient is read; None where gradients are pulled back explicitly.
        before_unscaling: called in its place where a gradient scaler reads it, with the optimizer and the factor.
        before_clearing: called before one is cleared; by a ``zero_grad``, where that reads it.
        weights: whose gradients are cleared with its own: in a loop of one's own the layer's, on which another model's
            backward pass may have left some; none where the optimizers' ``zero_grad`` was given it to do.
        replacements: how many times ``data`` was given another tensor, which moves no version.
        former: the shape that they had until a refresh gave them another one; None without.
        shards: the processes that hold shares of the layer's targets, of which these are one; None where they are all.
    """

    before_reading: Callable[[], object] | None = None
    before_unscaling: Callable[[Any, Tensor], object] | None = None
    before_clearing: Callable[[], object] | None = None
    weights: Sequence[nn.Parameter] = ()
    replacements = 0
    former: torch.Size | None = None
    shards: Shards | None = None

    @property
    def grad(self) -> Tensor | None:  # type: ignore[override]
        """The gradient, pulled back if need be."""
        if self.before_unscaling is not None and (reader := sys._getframe(1)).f_code.co_name == _UNSCALING:
            self.before_unscaling(reader.f_locals["optimizer"], reader.f_locals["inv_scale"])
        elif self.before_clearing is not None and sys._getframe(1).f_code.co_name == _CLEARING:
            self.before_clearing()
        elif self.before_reading is not None:
            self.before_reading()
        for weight in self.weights:
            gradient: Any = weight.grad
            if gradient is None:
                continue
            if sys._getframe(1).f_code.co_name == _CLEARING:  # which passes over a target without a gradient
                weight.grad = None
            else:
                setattr(gradient, READ, gradient._version)
        found: Tensor | None = _GRAD.__get__(self)
        return found

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None and self.before_clearing is not None:
            self.before_clearing()
        _GRAD.__set__(self, value)
        if value is None:
            for weight in self.weights:
                weight.grad = None

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The values, in the same memory and with the same version counter."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self.replacements += 1
        _DATA.__set__(self, value)

    @property
    def stored_grad(self) -> Tensor | None:
        """The gradient as it stands, without pulling back."""
        found: Tensor | None = _GRAD.__get__(self)
        return found

    def take_grad(self) -> None:
        """Take the gradient away, without clearing the weights'."""
        _GRAD.__set__(self, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Target:
        """A copy of the values, of the same processes' shares."""
        copied: Target = super().__deepcopy__(memo)  # type: ignore[no-untyped-call]
        copied.shards = self.shards
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a plain Parameter."""
        plain: Any = nn.Parameter(self.detach(), self.requires_grad)
        return plain.__reduce_ex__(protocol)


def version(parameter: nn.Parameter) -> tuple[int, int]:
    """Moves whenever the parameter's values may have changed in place."""
    return parameter._version, getattr(parameter, "replacements", 0)
