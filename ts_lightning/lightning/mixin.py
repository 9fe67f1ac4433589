"""TargetSpaceMixin: the life of a target space inside a LightningModule."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.lending import lend, set_trainer
from ts_lightning.lightning.module import TargetSpaceModule
from ts_lightning.lightning.other_name import refuse_other_name, say_others
from ts_lightning.lightning.reference_data import equally_many, reference_samples, reference_size
from ts_lightning.lightning.session import Session, session_of
from ts_lightning.lightning.training_data import each, filled, read_ahead, training_loader


class TargetSpaceMixin(TargetSpaceModule):
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

    def reference_batch(self) -> Any:
        """The batch on which targets are defined; override to give one of your own.

        Returns:
            A batch in the form of the training batches; it goes through the module's transfer hooks as they do. By
            default the samples that ``target_space.reference`` asks for, out of the training data.
        """
        own = getattr(super(), "reference_batch", None)  # of a class that was written without the mixin
        if own is not None:
            return own()
        config = self.target_space
        assert config is not None
        size = reference_size(self, config.reference.size)
        seed = (torch.initial_seed() + session_of(self).construction.epoch) % 2**63
        loaders, taken = training_loader(self.trainer), []
        for place, loader in enumerate(each(loaders, loaders)):
            with contextlib.closing(read_ahead(self.trainer, place)) as batches:
                taken.append(reference_samples(loader, size, config.reference.selection, seed, batches))
        return filled(loaders, iter(equally_many(taken)))

    def reference_forward(self, batch: Any) -> Any:
        """Run the model on the reference batch; override to call it in a way of your own.

        By default as ``training_step`` calls it, see :mod:`ts_lightning.lightning.reference_call`.

        Args:
            batch: what :meth:`reference_batch` gave, on the model's device.

        Raises:
            TargetSpaceError: neither ``forward`` nor ``training_step`` can be run on the batch.
        """
        own = getattr(super(), "reference_forward", None)
        return session_of(self).construction.call(batch) if own is None else own(batch)

    def configure_weight_optimizers(self) -> Any:
        """The optimizers of what follows ``target_space.until`` steps, when training goes on in weight space.

        They, and schedules with them, begin there. Override to give some.

        Returns:
            What ``configure_optimizers`` may return. None, the default, or an empty list: the present optimizers and
            their schedules go on, with the weights in the place of their targets.
        """
        own = getattr(super(), "configure_weight_optimizers", None)
        return None if own is None else own()

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
        """Nothing of its own; see :meth:`__init_subclass__`."""
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing of its own; see :meth:`__init_subclass__`."""
        super().on_load_checkpoint(checkpoint)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As in PyTorch; ``init="auto"`` keeps what is loaded."""
        result = super().load_state_dict(state_dict, *args, **options)
        session_of(self).construction.load(state_dict)
        return result

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the session hear of checkpoints whether or not the class's own hooks call ``super()``.

        Raises:
            TargetSpaceError: the class is a plain module's, which no Trainer can fit, or one of ``pytorch_lightning``.
        """
        super().__init_subclass__(**options)
        refuse_other_name(cls, f"class {cls.__name__}")
        _refuse_plain_module(cls)
        for name, hear in (("on_save_checkpoint", Session.saved), ("on_load_checkpoint", Session.loaded)):
            setattr(cls, name, _heard(cls, name, hear))

    @property
    def trainer(self) -> Trainer:
        """As in Lightning."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        before = self._trainer
        set_trainer(self, trainer)
        if trainer is None:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            if before not in (None, trainer) and session_of(self).fits is not None:
                lend(self, trainer, before)
        elif trainer.lightning_module is self:
            if self.target_space is not None:
                say_others(trainer)
            session_of(self).attach(trainer)
        elif self.target_space is not None and not isinstance(trainer.lightning_module, TargetSpaceMixin):
            _say_not_fitted(self, trainer.lightning_module)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have the solved weights, and leave the engine with its graph behind."""
        state = {**super().__getstate__(), "target_space_engine": None}
        state.pop("_target_space_session", None)
        return state


def _say_not_fitted(module: TargetSpaceMixin, fitted: LightningModule) -> None:
    """Warn of a module with the mixin inside of a fitted one without it, if something of it is trained."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        rank_zero_warn(
            f"{type(module).__name__}, which has TargetSpaceMixin, is part of {type(fitted).__name__}, which has not: "
            f"all of it trains in weight space. Target space belongs to the module that the Trainer fits: write class "
            f"{type(fitted).__name__}(TargetSpaceMixin, LightningModule), or convert({type(fitted).__name__}(...))."
        )


def _refuse_plain_module(cls: type[TargetSpaceMixin]) -> None:
    """Refuse the mixin on a module that is no LightningModule, where it would do nothing: no Trainer fits that.

    The class itself is a LightningModule, by way of the mixin; a training step shows that it is meant as one.
    """
    if cls.training_step is not LightningModule.training_step:
        return
    bases = [base for base in cls.__bases__ if not issubclass(base, TargetSpaceMixin)]
    plain = [base.__name__ for base in bases if issubclass(base, nn.Module) and not issubclass(base, LightningModule)]
    if plain and not any(issubclass(base, LightningModule) for base in bases):
        raise TargetSpaceError(
            f"class {cls.__name__}: found TargetSpaceMixin with {', '.join(plain)}, which is no LightningModule, and "
            f"without a training_step; nothing would train in target space. In a loop of one's own, leave the mixin "
            f"out and make TargetSpace(model, inputs); for a Trainer, write class {cls.__name__}(TargetSpaceMixin, "
            f"LightningModule) with training_step and configure_optimizers."
        )


def _heard(cls: type[TargetSpaceMixin], name: str, hear: Callable[[Session, dict[str, Any]], None]) -> Any:
    """The hook ``name`` of a class, of which the session hears behind what the class does itself."""
    own: Callable[..., None] | None = cls.__dict__.get(name)

    @functools.wraps(own or getattr(cls, name))
    def hook(self: TargetSpaceMixin, checkpoint: dict[str, Any]) -> None:
        if own is None:
            getattr(super(cls, self), name)(checkpoint)
        else:
            own(self, checkpoint)
        hear(session_of(self), checkpoint)

    return hook
