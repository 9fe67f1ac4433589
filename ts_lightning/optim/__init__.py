"""The optimizer for targets."""

from ts_lightning.optim.target_adam import TargetAdam, shares_one

__all__ = ["TargetAdam", "shares_one"]
