"""A module that is converted to another precision within a fit, or moved to another device.

Targets, moments and the reference batch are then of the precision of before, and go on in the new one. The device is
the Trainer's to choose, whose strategy, batches and optimizers stay where they are.
"""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.module import TargetSpaceModule


class Conversion:
    """What a module's parameters were when its targets were made.

    Args:
        module: the module.
    """

    def __init__(self, module: TargetSpaceModule) -> None:
        self._module = module
        self._made = {name: (p, p.dtype, p.device) for name, p in module.named_parameters()}

    def found(self, *, replaced: bool) -> Change | None:
        """What parameters were converted to; None where all have the precision of before.

        Args:
            replaced: whether parameters may be others than then, which are looked up by name. Otherwise, as in nearly
                every batch, the same ones are looked at.

        Raises:
            TargetSpaceError: the module was moved.
        """
        made = list(self._made.values())
        if not replaced and all(p.dtype == dtype and p.device == device for p, dtype, device in made):
            return None
        pairs = [(name, p, *self._made[name][1:]) for name, p in self._module.named_parameters() if name in self._made]
        for name, parameter, _, device in pairs:
            if parameter.device != device:
                raise TargetSpaceError(
                    f"The module was moved during the fit: found {name} on {parameter.device}, expected {device}. "
                    f"Move it behind the fit, or let the Trainer's accelerator and devices say where the fit runs."
                )
        found = {dtype: parameter.dtype for _, parameter, dtype, _ in pairs if parameter.dtype != dtype}
        whole = all(found.get(dtype, dtype) == parameter.dtype for _, parameter, dtype, _ in pairs)
        return Change(found, whole=whole) if found else None


class Change:
    """A conversion.

    Args:
        precisions: that parameters have now, by those that they had.
        whole: whether all parameters of a precision have the same one now.
    """

    def __init__(self, precisions: dict[torch.dtype, torch.dtype], *, whole: bool) -> None:
        self._precisions, self._whole = precisions, whole

    def __str__(self) -> str:
        names = [f"{before} to {now}".replace("torch.", "") for before, now in self._precisions.items()]
        return ", ".join(names)

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor of the reference batch, as a batch of the converted module has it."""
        return tensor.to(self._precisions.get(tensor.dtype, tensor.dtype)) if self._whole else tensor


def say_changed(what: str | None, converted: Change | None) -> None:
    """Say what has become of a model during a fit.

    Args:
        what: is another than when its targets were made, in words; None where it was converted alone.
        converted: how.
    """
    if what is None:
        rank_zero_warn(
            f"The model was converted during the fit ({converted}). Targets, moments and the reference batch are "
            f"converted with it."
        )
    else:
        rank_zero_warn(
            f"The model was changed during the fit ({what}). Target space starts anew from the present weights, on the "
            f"same reference batch, with fresh moments."
        )
