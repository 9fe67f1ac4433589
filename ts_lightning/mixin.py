"""TargetSpaceMixin: the life of a target space inside a LightningModule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader, move_data_to_device
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.reference import batch_size, own, reference_samples, reference_size
from ts_lightning.selection import select_layers, untrained_layers
from ts_lightning.space import TargetSpace
from ts_lightning.strategy import SolveHook

_KEY = "target_space"


class TargetSpaceMixin(LightningModule):
    """Base class to add to a LightningModule, before its own: ``class Lit(TargetSpaceMixin, MyModule)``.

    The module's ``configure_optimizers``, ``training_step`` and all else stay as they are. When fitting starts, the
    reference batch is taken from the training data, targets are made for every supported layer, and they take the
    place of the layers' weights in the optimizers.

    Attributes:
        target_space: the settings, on the class or the instance; ``None`` trains in weight space.
        target_space_engine: the :class:`TargetSpace` from the start of a fit on; ``None`` before.
    """

    target_space: TargetSpaceConfig | None = TargetSpaceConfig()
    target_space_engine: TargetSpace | None = None
    _target_space_restored: dict[str, Any] | None = None

    def reference_batch(self) -> Any:
        """The batch on which targets are defined; override to give one of your own.

        Returns:
            A batch in the form of the training batches; it goes through the module's transfer hooks as they do. By
            default the samples that ``target_space.reference`` asks for, out of the training data.
        """
        config = self.target_space
        assert config is not None
        source = self.trainer.fit_loop._data_source
        if not source.is_defined():
            raise TargetSpaceError(
                "The reference batch is taken from the training data, and there is none. Give a train_dataloader, or "
                "override reference_batch()."
            )
        loader = source.dataloader()
        if isinstance(loader, CombinedLoader):
            loader = loader.iterables  # which reference_samples refuses by its kind
        size = reference_size(self, config.reference.size)
        return reference_samples(loader, size, config.reference.selection, torch.initial_seed() % 2**63)

    def reference_forward(self, batch: Any) -> Any:
        """Run the model on the reference batch; override where ``self(x)`` is not how the model is called.

        Args:
            batch: what :meth:`reference_batch` gave, on the model's device.

        Raises:
            TargetSpaceError: the batch does not fit the signature of ``forward``.
        """
        if type(self).forward is LightningModule.forward:
            raise TargetSpaceError(
                f"{type(self).__name__} has no forward(); the reference batch is run through it. Define forward(), or "
                f"override reference_forward(batch)."
            )
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self.forward).parameters.values()
        needed = [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
        if isinstance(batch, Tensor) and len(needed) <= 1:
            return self(batch)
        if isinstance(batch, Mapping) and needed and all(name in batch for name in needed):
            return self(**{name: batch[name] for name in needed})
        if isinstance(batch, (tuple, list)) and len(batch) >= max(len(needed), 1):
            return self(*batch[: max(len(needed), 1)])
        raise TargetSpaceError(
            f"The reference batch is a {_form(batch)}, and forward() needs ({', '.join(needed)}). Override "
            f"reference_forward(batch) to call the model with it."
        )

    def on_fit_start(self) -> None:
        """Build the target space and put it in the place of the weights; see the class."""
        super().on_fit_start()
        if self.target_space is None:
            self.target_space_engine = None  # an earlier fit's, whose targets checkpoints would go on to carry
            return
        trainer = self.trainer
        if trainer.world_size > 1:
            raise TargetSpaceError(
                f"Target space trains in one process; found {trainer.world_size}. Use Trainer(devices=1)."
            )
        restored = self._target_space_restored
        self._target_space_restored = None
        with isolate_rng(include_cuda=self.device.type == "cuda"):
            settings = self._trained_only(self.target_space)
            if restored is None:
                restored = self._continued(settings)
            if restored is None:
                batch = _own(self._as_in_training(self.reference_batch()))
            else:
                batch = _own(move_data_to_device(restored["reference"], self.device))
            if batch_size(batch) == 0:
                raise TargetSpaceError(f"The reference batch is empty: found {_form(batch)}. Expected samples.")
            space = TargetSpace(
                self,
                # a copy of its own for every pass, since a forward may change its input in place
                lambda: self.reference_forward(_own(batch)),
                settings,
                targets=None if restored is None else restored["targets"],
            )
        for optimizer in trainer.strategy.optimizers:
            space.substitute(optimizer)
        SolveHook(trainer.strategy, space).attach()
        self.target_space_engine = space
        self._target_space_reference = batch

    def on_train_start(self) -> None:
        """Make sure that :meth:`on_fit_start` was not hidden by an override."""
        super().on_train_start()
        if self.target_space is not None and self.target_space_engine is None:
            raise TargetSpaceError(
                f"Training starts before target space is set up. Either {type(self).__name__} overrides on_fit_start() "
                f"without calling super().on_fit_start(): add the call. Or a learning rate finder trains before the "
                f"fit starts: choose the learning rate by trying some."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the targets and the reference batch to the checkpoint, under their own key."""
        super().on_save_checkpoint(checkpoint)
        space = self.target_space_engine
        if space is not None:
            targets = {name: target.detach() for name, target in space.targets.items()}
            checkpoint[_KEY] = {"targets": targets, "reference": self._target_space_reference}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint's targets and reference batch for the next fit."""
        super().on_load_checkpoint(checkpoint)
        self._target_space_restored = checkpoint.get(_KEY)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have the solved weights, and leave the engine with its graph behind."""
        return {**super().__getstate__(), "target_space_engine": None}

    def _as_in_training(self, batch: Any) -> Any:
        """The batch as the training loop hands it on: in its precision, through the transfer hooks, on the device."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self._on_before_batch_transfer(batch)
        return self.trainer.strategy.batch_to_device(batch)

    def _continued(self, settings: TargetSpaceConfig) -> dict[str, Any] | None:
        """Targets and reference batch of the last fit, if the same layers still have the weights that it left."""
        space = self.target_space_engine
        if space is None or space.config != settings:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a new engine says the same
            names = [layer.name for layer in select_layers(self, settings)]
        if names != list(space.targets) or not space.current():
            return None
        return {"targets": dict(space.targets), "reference": self._target_space_reference}

    def _trained_only(self, config: TargetSpaceConfig) -> TargetSpaceConfig:
        """The config with the layers excluded whose weights no optimizer trains; they stay as they are."""
        trained = {id(p) for o in self.trainer.strategy.optimizers for g in o.param_groups for p in g["params"]}
        idle = untrained_layers(self, trained) if trained else []
        if idle:
            warnings.warn(
                f"Left out of target space because no optimizer trains them: {', '.join(idle)}.", stacklevel=3
            )
        return replace(config, exclude=[*config.exclude, *idle])


def _own(batch: Any) -> Any:
    """A copy of a batch."""
    return apply_to_collection(batch, Tensor, own)


def _form(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with keys {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of ({', '.join(_form(item) for item in batch)})"
    return type(batch).__name__
