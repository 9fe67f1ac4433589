"""``ts_lightning.inspect``: what a target space will make of a module, LightningModules and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.inspection import Inspection, inspect_model
from ts_lightning.lightning.other_name import refuse_other_name
from ts_lightning.lightning.reference_call import reference_call
from ts_lightning.lightning.trial import quiet


def inspect(
    module: nn.Module, batch: Any, config: TargetSpaceConfig | None = None, batch_size: int | None = None
) -> Inspection:
    """What a target space will make of a module: a table, without training, that leaves the module as it is.

    It says of every layer whether it is solved or why not, from how many rows, with how many inputs (the bias among
    them) and outputs, from which matrix (primal: of the inputs; dual: of the rows), how much memory its targets take,
    and its share of what a step costs beyond weight space.

    Args:
        module: a LightningModule, with the mixin or without, or any other module.
        batch: the reference batch: of a LightningModule one of its training batches, of another module its input, a
            tuple or a dictionary of its inputs.
        config: the settings; ``None`` for the module's own, or the defaults.
        batch_size: of training, for the comparison of costs; ``None`` for the reference batch's.

    Raises:
        TargetSpaceError: what the settings ask for cannot be solved, nothing can, or the module cannot be called with
            the batch.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import ts_lightning
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 50), nn.Tanh(), nn.Linear(50, 2))
        >>> print(ts_lightning.inspect(model, torch.randint(9, (40, 3)), batch_size=20))
        Sequential: 2 layers solved, 95.4 % of 788 trainable parameters; 40 reference samples
        targets: 8.1 KiB, as much again for every moment that the optimizer keeps
        a step: about 8.5 times the multiplications of weight space, with batches of 20
        <BLANKLINE>
        layer  kind          solved       rows  inputs  outputs  system  targets  cost
        2      nn.Linear     yes            40      13       50  primal  7.8 KiB  61 %
        4      nn.Linear     yes            40      51        2  dual      320 B  39 %
        0      nn.Embedding  no: a table
    """
    settings = config if config is not None else getattr(module, "target_space", None)
    call: Callable[[Any], Any] | None = None
    refuse_other_name(type(module), "inspect")
    if isinstance(module, LightningModule):
        givers = [kind for kind in (module, *type(module).__mro__) if "reference_forward" in vars(kind)]
        own = [kind for kind in givers if not getattr(kind, "__module__", "").startswith("ts_lightning.lightning")]
        any_module: Any = module
        run = any_module.reference_forward if own else reference_call(any_module, batch)

        def call(batch: Any) -> Any:
            with quiet(any_module):
                return run(batch)

    return inspect_model(module, batch, settings, call, batch_size)
