"""Train LightningModules in target space (Fairbank, Samothrakis, Citi, JMLR 23(8), 2022).

Public names load what they need on first use: :class:`TargetSpace`, :class:`TargetAdam` and :func:`ridge_solve` need
torch alone, and the mixin, the strategies and the callbacks need Lightning.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from ts_lightning import interrupt as _interrupt

if TYPE_CHECKING:
    from ts_lightning.callbacks.monitor import TargetSpaceMonitor
    from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
    from ts_lightning.engine.space import TargetSpace
    from ts_lightning.errors import TargetSpaceError
    from ts_lightning.layers.registry import register_layer
    from ts_lightning.lightning.alias import alias_pytorch_lightning
    from ts_lightning.lightning.convert import convert
    from ts_lightning.lightning.inspection import inspect
    from ts_lightning.lightning.mixin import TargetSpaceMixin
    from ts_lightning.lightning.strategy import TargetSpaceDDPStrategy, TargetSpaceStrategy
    from ts_lightning.optim import TargetAdam
    from ts_lightning.ridge.api import ridge_solve
    from ts_lightning.ridge.scales import RidgeScale, register_ridge_scale

__version__ = "0.2.0"

_HOMES = {
    "ReferenceConfig": "config",
    "RidgeScale": "ridge.scales",
    "TargetAdam": "optim",
    "TargetSpace": "engine.space",
    "TargetSpaceConfig": "config",
    "TargetSpaceDDPStrategy": "lightning.strategy",
    "TargetSpaceError": "errors",
    "TargetSpaceMixin": "lightning.mixin",
    "TargetSpaceMonitor": "callbacks.monitor",
    "TargetSpaceStrategy": "lightning.strategy",
    "alias_pytorch_lightning": "lightning.alias",
    "convert": "lightning.convert",
    "inspect": "lightning.inspection",
    "register_layer": "layers.registry",
    "register_ridge_scale": "ridge.scales",
    "ridge_solve": "ridge.api",
}

__all__ = [
    "ReferenceConfig",
    "RidgeScale",
    "TargetAdam",
    "TargetSpace",
    "TargetSpaceConfig",
    "TargetSpaceDDPStrategy",
    "TargetSpaceError",
    "TargetSpaceMixin",
    "TargetSpaceMonitor",
    "TargetSpaceStrategy",
    "alias_pytorch_lightning",
    "convert",
    "inspect",
    "register_layer",
    "register_ridge_scale",
    "ridge_solve",
]


def __getattr__(name: str) -> object:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})


_interrupt.end_quietly()
if "lightning.pytorch" in sys.modules:  # then Trainer(strategy="target_space") may come before any of the names above
    importlib.import_module(f"{__name__}.lightning.strategy")
