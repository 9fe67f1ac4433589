"""Strategies by name: ``Trainer(strategy="target_space")`` and ``"target_space_ddp"``.

They are Lightning's own for one device and for DistributedDataParallel, and refuse a module that could not be trained
in target space under them. What makes the steps is the mixin's :class:`~ts_lightning.lightning.hook.SolveHook`, under
these as under stock strategies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.distributed import ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook

from ts_lightning.errors import TargetSpaceError


class _ForMixin(Strategy):
    """A strategy that refuses modules without the mixin before anything starts."""

    strategy_name: str

    def setup(self, trainer: Trainer) -> None:
        """Set up as the parent does."""
        if not hasattr(trainer.lightning_module, "target_space_engine"):
            raise TargetSpaceError(
                f"strategy='{self.strategy_name}' needs a module with the mixin; found "
                f"{type(trainer.lightning_module).__name__}. Use class Lit(TargetSpaceMixin, LightningModule)."
            )
        super().setup(trainer)


class TargetSpaceStrategy(_ForMixin, SingleDeviceStrategy):
    """Target space on one device.

    Args:
        device: the device; ``None`` takes the one that the Trainer chose.
        options: of :class:`lightning.pytorch.strategies.SingleDeviceStrategy`.

    Raises:
        TargetSpaceError: the Trainer has several devices; or, when a fit begins, its module is without the mixin.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> import ts_lightning
        >>> trainer = Trainer(strategy="target_space", accelerator="cpu", logger=False)
        >>> isinstance(trainer.strategy, ts_lightning.TargetSpaceStrategy)
        True
    """

    strategy_name = "target_space"

    def __init__(self, device: torch.device | str | int | None = None, **options: Any) -> None:
        super().__init__("cpu" if device is None else device, **options)
        self._parallel_devices = [] if device is None else [self._root_device]

    @property
    def parallel_devices(self) -> list[torch.device]:
        """The Trainer's devices, of which there may be one."""
        return self._parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) > 1:
            raise TargetSpaceError(
                f"strategy='target_space' trains on one device; found {len(devices)}. Use strategy='target_space_ddp', "
                f"or Trainer(devices=1)."
            )
        self._parallel_devices = devices
        if devices:
            self._root_device = devices[0]


class TargetSpaceDDPStrategy(_ForMixin, DDPStrategy):
    """Target space with DistributedDataParallel: the reference batch is shared between the processes.

    Takes the options of :class:`lightning.pytorch.strategies.DDPStrategy`.

    Raises:
        TargetSpaceError: when a fit begins, its module is without the mixin, or the options have a communication hook
            that leaves each process with gradients of its own.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> import ts_lightning
        >>> trainer = Trainer(strategy="target_space_ddp", accelerator="cpu", devices=2, logger=False)
        >>> isinstance(trainer.strategy, ts_lightning.TargetSpaceDDPStrategy)
        True
    """

    strategy_name = "target_space_ddp"


def process_group(strategy: Strategy) -> ProcessGroup | None:
    """The processes that train together under a strategy; None for one.

    Raises:
        TargetSpaceError: target space cannot train under it.
    """
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise TargetSpaceError(
            f"{type(strategy).__name__} flattens or shards the weights that are solved. Use strategy='ddp' or "
            f"'target_space_ddp', which share the reference batch between the processes."
        )
    if isinstance(strategy, DDPStrategy):
        state, hook = strategy._ddp_comm_state, strategy._ddp_comm_hook
        apart = isinstance(state, PostLocalSGDState) or hook in (post_localSGD_hook, noop_hook)
        if apart and strategy.world_size > 1:
            raise TargetSpaceError(
                "DDPStrategy was given a hook that leaves each process with gradients of its own, as local SGD does "
                "between two averages of the models. The processes have targets of different samples, which nothing "
                "can average. Leave out ddp_comm_state, ddp_comm_hook and model_averaging_period."
            )
        return dist.group.WORLD
    if strategy.is_global_zero and getattr(strategy, "world_size", 1) == 1:
        return None
    raise TargetSpaceError(
        f"Target space trains on one device or with DistributedDataParallel; found {type(strategy).__name__}. Use "
        f"strategy='auto', 'ddp' or 'target_space_ddp'."
    )


for _strategy, _description in (
    (TargetSpaceStrategy, "Target space on one device"),
    (TargetSpaceDDPStrategy, "Target space with DistributedDataParallel"),
):
    StrategyRegistry.register(_strategy.strategy_name, _strategy, description=_description, override=True)
