"""The optimizer of ``--optimizer``, made when a fit asks for it.

Lightning makes it with the module, of the parameters that there are by then. A module that makes its layers later, in
``setup`` or ``configure_model``, as one that counts words first, has none, or not all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden


def install(
    module: LightningModule,
    optimizer: dict[str, Any],
    schedule: dict[str, Any] | None,
    together: Callable[..., Any],
) -> None:
    """Let a module's ``configure_optimizers`` make what was asked for.

    Args:
        module: whose method is replaced.
        optimizer: its class and arguments.
        schedule: the learning rates', or None.
        together: gives what ``configure_optimizers`` returns, from the module, the optimizer and the schedule.

    Raises:
        Exception: whatever the classes say of their arguments, at once where the module has parameters.
    """

    def configure_optimizers(module: LightningModule) -> Any:
        made = instantiate_class(module.parameters(), optimizer)
        return together(module, made, instantiate_class(made, schedule) if schedule else None)

    if any(True for _ in module.parameters()):
        configure_optimizers(module)
    if is_overridden("configure_optimizers", module):
        rank_zero_warn(f"--optimizer is used in the place of {type(module).__name__}.configure_optimizers.")
    update_wrapper(configure_optimizers, together)  # by which Lightning sees that there is one
    module.configure_optimizers = MethodType(configure_optimizers, module)  # type: ignore[method-assign]
