"""Train LightningModules in target space (Fairbank, Samothrakis, Citi, JMLR 23(8), 2022)."""

from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.mixin import TargetSpaceMixin
from ts_lightning.monitor import TargetSpaceMonitor
from ts_lightning.solve import ridge_solve
from ts_lightning.space import TargetSpace
from ts_lightning.strategy import TargetSpaceDDPStrategy, TargetSpaceStrategy

__version__ = "0.1.0.dev0"

__all__ = [
    "ReferenceConfig",
    "TargetSpace",
    "TargetSpaceConfig",
    "TargetSpaceDDPStrategy",
    "TargetSpaceError",
    "TargetSpaceMixin",
    "TargetSpaceMonitor",
    "TargetSpaceStrategy",
    "ridge_solve",
]
