"""A LightningModule that was written without the mixin, taken into target space in place.

The module's class is replaced by a class of the same name with the mixin in front. Parameters, buffers, arguments and
optimizers stay the same objects, checkpoints are those of the original class, and copies and pickles are made by way of
it.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypeVar

from lightning.pytorch import LightningModule

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError, instead
from ts_lightning.lightning.mixin import TargetSpaceMixin
from ts_lightning.lightning.module import OVERRIDABLE, refuse_other_uses
from ts_lightning.lightning.other_name import refuse_other_name

Module = TypeVar("Module", bound=LightningModule)
_DEFAULTS = TargetSpaceConfig()
_CONVERTED: dict[type[LightningModule], Any] = {}


def convert(module: Module, config: TargetSpaceConfig | None = _DEFAULTS) -> Module:
    """Let a LightningModule train in target space, without a class of one's own.

    The module is changed in place: it becomes an instance of its own class with :class:`TargetSpaceMixin` in front. Its
    class may define ``reference_batch``, ``reference_forward`` and ``configure_weight_optimizers`` as described there.
    Checkpoints load into the original class by ``load_from_checkpoint``; convert what that gives to go on in target
    space.

    Args:
        module: the module, before its fit; one that has the mixin only gets the settings.
        config: the settings; ``None`` trains in weight space, which needs no conversion. Left out, they are those that
            the module or its class has as ``target_space``, and else ``TargetSpaceConfig()``, whose fields ``help``
            lists in the place of these words.

    Returns:
        The same module.

    Raises:
        TargetSpaceError: it is not a LightningModule, or keeps something else under a name of these.
        TypeError: the settings are something else than these.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from ts_lightning import ReferenceConfig, TargetSpaceConfig, convert
        >>> model = convert(BoringModel(), TargetSpaceConfig(reference=ReferenceConfig(size=20)))
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> Trainer(accelerator="cpu", max_steps=3, enable_checkpointing=False, **quiet).fit(model)
        >>> {name: tuple(target.shape) for name, target in model.target_space_engine.targets.items()}
        {'layer': (20, 2)}
    """
    refuse_other_name(type(module), "convert")
    if not isinstance(module, LightningModule):
        compiled = isinstance(getattr(module, "_orig_mod", None), LightningModule)
        hint = "convert it before torch.compile" if compiled else "for other modules there is ts_lightning.TargetSpace"
        if isinstance(module, type):
            hint = f"make one first, as in convert({module.__name__}(...))"
        raise TargetSpaceError(f"convert: found {instead(module)}; expected a LightningModule: {hint}.")
    if config is not None:
        refuse_other_uses(module)
    if config is _DEFAULTS:
        config = TargetSpaceConfig.checked(getattr(module, "target_space", None), "target_space") or _DEFAULTS
    TargetSpaceConfig.checked(config, "convert")
    converted: Any = module
    if config is not None and not isinstance(module, TargetSpaceMixin):
        converted.__class__ = _with_mixin(type(module))
    if isinstance(module, TargetSpaceMixin):
        converted.target_space = config
    return module


def space_of(module: LightningModule) -> Literal["target", "weight"]:
    """In which space a module trains."""
    return "weight" if getattr(module, "target_space", None) is None else "target"


def _with_mixin(own: type[LightningModule]) -> Any:
    if own not in _CONVERTED:
        body = {name: inspect.getattr_static(own, name) for name in OVERRIDABLE if hasattr(own, name)}
        body |= {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
        body |= {"__reduce_ex__": _reduce, "_own_class": own}
        _CONVERTED[own] = type(own.__name__, (TargetSpaceMixin, own), body)
    return _CONVERTED[own]


def _reduce(model: Any, protocol: int) -> Any:
    """Pickled by its own class, since the one with the mixin has no place in any module."""
    return _empty, (model._own_class,), model.__getstate__()


def _empty(own: type[LightningModule]) -> LightningModule:
    made = _with_mixin(own)
    empty: LightningModule = made.__new__(made)
    return empty
