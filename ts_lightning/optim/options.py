"""The options of a parameter group of :class:`~ts_lightning.TargetAdam`, beside its learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ts_lightning.checks import built_in
from ts_lightning.errors import SettingError, expect

#: those that it has
OPTIONS = ("betas", "momentum", "eps", "weight_decay", "rest_lr_mult", "adaptive_lr")
#: those that a group from before there was one has
FORMER = {"rest_lr_mult": 1.0, "adaptive_lr": False}
#: those of Adam that a group may ask for, and that would be without effect here
_WITHOUT = ("amsgrad", "maximize", "differentiable", "fused", "capturable")


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with numbers in built-in types but for a rate that is a tensor, which schedules write to.

    Raises:
        SettingError: an option is out of its range, or asks for what this optimizer has not.
    """
    kept = ("params", "lr") if isinstance(options["lr"], Tensor) else ("params",)
    options = {name: value if name in kept else built_in(value) for name, value in options.items()}
    for name in ("lr", "eps", "weight_decay", "rest_lr_mult"):
        expect(name, options[name], 0)
    try:
        beta1, beta2 = options["betas"] = tuple(map(built_in, options["betas"]))
    except (TypeError, ValueError):
        raise SettingError(f"betas: found {options['betas']!r}; expected two numbers, as (0.9, 0.999).") from None
    for name, value in (("betas[0]", beta1), ("betas[1]", beta2), ("momentum", options["momentum"])):
        expect(name, value, 0, below=1)
    if options["adaptive_lr"] not in (False, True):
        raise SettingError(f"adaptive_lr: found {options['adaptive_lr']!r}; expected True or False.")
    wanted = [name for name in _WITHOUT if options.get(name)]
    if wanted:
        raise SettingError(
            f"TargetAdam has no {wanted[0]}: found {options[wanted[0]]} in a parameter group. Leave it out, or use "
            f"torch.optim.Adam."
        )
    return options
