"""A LightningModule that was written without the mixin, taken into target space."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.lightning.mixin import TargetSpaceMixin

_CONVERTED: dict[type[LightningModule], Any] = {}


def space_of(model: LightningModule) -> Literal["target", "weight"]:
    """In which space a module trains."""
    return "weight" if getattr(model, "target_space", None) is None else "target"


def set_target_space(model: LightningModule, settings: TargetSpaceConfig | None) -> None:
    """Let ``model`` train with these settings; ``None`` trains in weight space.

    A model without the mixin is made an instance of its own class with the mixin in front, in place.
    """
    if isinstance(model, TargetSpaceMixin):
        model.target_space = settings
    elif settings is not None:
        converted: Any = model
        converted.__class__ = _with_mixin(type(model))
        converted.target_space = settings


def _with_mixin(own: type[LightningModule]) -> Any:
    if own not in _CONVERTED:
        body = {"__module__": own.__module__, "__doc__": own.__doc__, "__reduce_ex__": _reduce, "_own_class": own}
        _CONVERTED[own] = type(own.__name__, (TargetSpaceMixin, own), body)
    return _CONVERTED[own]


def _reduce(model: Any, protocol: int) -> Any:
    """Pickled by its own class, since the one with the mixin has no place in any module."""
    return _empty, (model._own_class,), model.__getstate__()


def _empty(own: type[LightningModule]) -> LightningModule:
    made = _with_mixin(own)
    empty: LightningModule = made.__new__(made)
    return empty
