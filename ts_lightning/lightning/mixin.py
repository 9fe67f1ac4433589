"""TargetSpaceMixin: the life of a target space inside a LightningModule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import CombinedLoader, move_data_to_device, rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.distributed import ProcessGroup

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.batches import batch_size, formed
from ts_lightning.engine.selection import untrained_layers
from ts_lightning.engine.space import TargetSpace
from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.checkpoint import KEY, SETTINGS, Restored, class_path, group_sizes, save
from ts_lightning.lightning.hook import SolveHook
from ts_lightning.lightning.reference_data import reference_samples, reference_size
from ts_lightning.lightning.strategy import process_group

#: settings of the reference batch that say what of it is solved from, and cannot change within a run
_DRAWN = ("size", "rows")


class TargetSpaceMixin(LightningModule):
    """Base class to add to a LightningModule, before its own: ``class Lit(TargetSpaceMixin, MyModule)``.

    The module's ``configure_optimizers``, ``training_step`` and all else stay as they are. When fitting starts, the
    reference batch is taken from the training data, targets are made for every supported layer, and they take the
    place of the layers' weights in the optimizers.

    Attributes:
        target_space: the settings, on the class or the instance; ``None`` trains in weight space.
        target_space_engine: the :class:`TargetSpace` from the start of a fit on; ``None`` before.

    Examples:
        Any LightningModule, here one of Lightning's own, is trained in target space:

        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMixin
        >>> class Boring(TargetSpaceMixin, BoringModel):
        ...     target_space = TargetSpaceConfig(reference=ReferenceConfig(size=20))
        >>> model = Boring()
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> Trainer(accelerator="cpu", max_steps=3, enable_checkpointing=False, **quiet).fit(model)
        >>> {name: tuple(target.shape) for name, target in model.target_space_engine.targets.items()}
        {'layer': (20, 2)}
    """

    # in comments, since TorchScript reads a class's annotations and refuses these
    target_space = TargetSpaceConfig()  # type: TargetSpaceConfig | None
    target_space_engine = None  # type: TargetSpace | None
    _target_space_restored = None  # type: Restored | None
    _target_space_epoch = 0  # in which the reference batch was taken
    _solve_hook = None  # type: SolveHook | None
    _group_sizes = ()  # type: tuple[list[int], ...]  # of the optimizers, when they had weights

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
        seed = (torch.initial_seed() + self._target_space_epoch) % 2**63
        return reference_samples(loader, size, config.reference.selection, seed)

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
        """Put targets in the place of the weights; see the class."""
        super().on_fit_start()
        self._begin()

    def on_train_start(self) -> None:
        """Make sure that :meth:`on_fit_start` was not hidden by an override."""
        super().on_train_start()
        if self.target_space is not None and not self._begun():
            raise TargetSpaceError(
                f"Training starts before target space is set up: {type(self).__name__} overrides on_fit_start() "
                f"without calling super().on_fit_start(): add the call."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Take another reference batch before an epoch where ``target_space.reference.refresh`` says so.

        Not in ``on_train_epoch_start``, which Lightning leaves out after resuming behind an epoch's last batch.
        """
        self._refresh()
        return super().on_train_batch_start(batch, batch_idx)

    def _refresh(self) -> None:
        space, config = self.target_space_engine, self.target_space
        if space is None or config is None or config.reference.refresh is None:
            return
        epoch = self.trainer.current_epoch
        if epoch % config.reference.refresh or epoch == self._target_space_epoch:
            return  # the latter where it resumes within this epoch
        with isolate_rng(include_cuda=self.device.type == "cuda"):
            change = space.refresh(self._drawn_batch(epoch))
        targets = set(space.targets.values())
        for optimizer in self.trainer.strategy.optimizers:
            for target in targets.intersection(optimizer.state):
                del optimizer.state[target]
        rank_zero_info(
            f"Target space: a new reference batch in epoch {epoch}; largest change of any output on it {change:.3g}."
        )

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizers, for manual optimisation; their ``zero_grad`` clears the solved weights' gradients, too."""
        found = super().optimizers(use_pl_optimizer)
        for optimizer in found if isinstance(found, list) else [found]:
            if isinstance(optimizer, LightningOptimizer):
                optimizer.__dict__["zero_grad"] = optimizer.optimizer.zero_grad
        return found

    def toggle_optimizer(self, optimizer: Any) -> None:
        """As in Lightning; the weights freeze with their targets."""
        super().toggle_optimizer(optimizer)
        if self.target_space_engine is not None:
            self.target_space_engine.follow()

    def untoggle_optimizer(self, optimizer: Any) -> None:
        """As in Lightning; the weights thaw with their targets."""
        super().untoggle_optimizer(optimizer)
        if self.target_space_engine is not None:
            self.target_space_engine.follow()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what target space needs to go on, under its own key; see ``ts_lightning.lightning.checkpoint``."""
        super().on_save_checkpoint(checkpoint)
        settings = None if self.target_space is None else self.target_space.to_dict()
        checkpoint[SETTINGS] = {"class": class_path(type(self)), "settings": settings}
        if self._fitting() and self.trainer.optimizers and not self._begun():
            self._begin()  # a callback that trains before the fit starts saves first
            checkpoint["state_dict"] = self.trainer.strategy.lightning_module_state_dict()
        space = self.target_space_engine
        if space is not None:
            drawn = {name: getattr(space.config.reference, name) for name in _DRAWN}
            more = {"drawn": drawn, "epoch": self._target_space_epoch}
            save(checkpoint, space, self.trainer.strategy.optimizers, self._group_sizes, **more)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what target space needs for the next fit, or go back to it in the present one.

        ``load_from_checkpoint`` restores the settings of the run, too, unless they are an argument of the module's.
        """
        super().on_load_checkpoint(checkpoint)
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if self._trainer is None and SETTINGS in checkpoint and "target_space" not in arguments:
            settings = checkpoint[SETTINGS]["settings"]
            self.target_space = None if settings is None else TargetSpaceConfig.from_dict(settings)
        restored = Restored(checkpoint.get(KEY), checkpoint if self._fitting() else None)
        if self.target_space is None:
            if restored.entry is not None and self._fitting():
                rank_zero_warn(
                    "The checkpoint is of target space, and the module has target_space=None: it goes on in weight "
                    "space from the checkpoint's weights, with fresh moments."
                )
        elif not self._begun():
            self._target_space_restored = restored
        elif restored.entry is not None and self.target_space_engine is not None:
            self.target_space_engine.load_state_dict(restored.entry)
            restored.restore_optimizers(self.target_space_engine, self.trainer.strategy.optimizers)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have the solved weights, and leave the engine with its graph behind."""
        return {**super().__getstate__(), "target_space_engine": None, "_solve_hook": None}

    def _fitting(self) -> bool:
        """Whether a Trainer is running a fit with this module."""
        state = None if self._trainer is None else self._trainer.state
        return state is not None and state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING

    def _begun(self) -> bool:
        """Whether the present fit's strategy trains this module's targets."""
        hook = self._solve_hook
        return hook is not None and hook.attached and hook.strategy is self.trainer.strategy

    def _begin(self) -> None:
        """Build the target space, once in a fit: from the loaded checkpoint, the last fit, or anew."""
        if self._begun():
            return
        strategy = self.trainer.strategy
        restored, self._target_space_restored = self._target_space_restored, None
        if restored is not None and restored.checkpoint is not None and self.trainer.ckpt_path is None:
            restored = None  # of a fit that could not load its checkpoint
        last, self.target_space_engine = self.target_space_engine, None
        if self.target_space is None:
            return
        group = process_group(strategy)
        settings = self._trained_only(self.target_space)
        if restored is None and last is not None:
            same = replace(last.config, cuda_graphs=settings.cuda_graphs) == settings
            restored = Restored(last.state_dict() if same else None)
        with isolate_rng(include_cuda=self.device.type == "cuda"):
            space = self._built(settings, restored, group)
        self._group_sizes = tuple(map(group_sizes, strategy.optimizers))
        for optimizer in strategy.optimizers:
            space.substitute(optimizer)
        if restored is not None:
            restored.restore_optimizers(space, strategy.optimizers)
        self._solve_hook = SolveHook(strategy, space)
        self._solve_hook.attach()
        self.target_space_engine = space

    def _built(self, settings: TargetSpaceConfig, restored: Restored | None, group: ProcessGroup | None) -> TargetSpace:
        """A target space in the state that was restored, or from the weights where these are not what it solves."""

        def build(batch: Any, config: TargetSpaceConfig, state: dict[str, Any] | None = None) -> TargetSpace:
            if batch_size(batch) == 0:
                raise TargetSpaceError(f"The reference batch is empty: found {_form(batch)}. Expected samples.")
            return TargetSpace(self, batch, config, forward=self.reference_forward, state=state, group=group)

        self._target_space_epoch = 0
        if restored is None:
            return build(self._drawn_batch(), settings)
        from_weights = replace(settings, init="weights")
        entry = restored.entry
        if entry is None:
            return build(self._drawn_batch(), from_weights)
        for name, written in entry.get("drawn", {}).items():
            found = getattr(settings.reference, name)
            if written != found:
                raise TargetSpaceError(
                    f"The checkpoint was written with reference.{name}={written!r}; found {found!r}. Use the same, or "
                    f"start from the checkpoint's weights alone: load them, and fit without ckpt_path."
                )
        self._target_space_epoch = entry.get("epoch", 0)
        batch = move_data_to_device(entry["reference"], self.device)
        batch = self.trainer.precision_plugin.convert_input(batch)
        if not entry["plain"]:
            batch = formed(batch, self._drawn_batch(self._target_space_epoch))
        given = {parameter: parameter.detach().clone() for parameter in self.parameters()}
        space = build(batch, settings, entry)
        if space.keeps(given):
            return space
        with torch.no_grad():
            for parameter, value in given.items():
                parameter.copy_(value)
        return build(batch, from_weights)

    def _drawn_batch(self, epoch: int = 0) -> Any:
        """The reference batch, the same in all processes, as the training loop would hand it on."""
        self._target_space_epoch = epoch
        batch = self.trainer.strategy.broadcast(self.reference_batch())
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self._on_before_batch_transfer(batch)
        return self.trainer.strategy.batch_to_device(batch)

    def _trained_only(self, config: TargetSpaceConfig) -> TargetSpaceConfig:
        """The config with the layers excluded whose weights no optimizer trains; they stay as they are."""
        trained = {id(p) for o in self.trainer.strategy.optimizers for g in o.param_groups for p in g["params"]}
        idle = untrained_layers(self, trained) if trained else []
        if idle:
            warnings.warn(
                f"Left out of target space because no optimizer trains them: {', '.join(idle)}.", stacklevel=4
            )
        return replace(config, exclude=[*config.exclude, *idle])


def _form(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with keys {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of ({', '.join(_form(item) for item in batch)})"
    return type(batch).__name__
