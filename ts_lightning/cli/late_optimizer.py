"""The optimizer of ``--optimizer``, made when a fit asks for it.

Lightning makes it with the module, of the parameters that there are by then. A module that makes its layers later, in
``setup`` or ``configure_model``, as one that counts words first, has none, or not all.

A checkpoint brings the settings of its own optimizer, as in any fit of Lightning's. Where they take the place of what
the command line says, a warning says so; an optimizer of another kind keeps its own, and starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import update_wrapper
from types import MethodType
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import Optimizer

from ts_lightning.errors import SettingError
from ts_lightning.optim.kind import of_another_kind

#: of a group, what is no setting
_NO_SETTINGS = {"params", "param_names", "initial_lr"}
#: what schedules change as they go, as OneCycleLR, beside the rate
_SCHEDULED = {"betas", "momentum"}


def install(
    module: LightningModule,
    optimizer: dict[str, Any] | None,
    schedule: dict[str, Any] | None,
    together: Callable[..., Any],
    *,
    fits: bool,
) -> None:
    """Let a module's ``configure_optimizers`` make what was asked for.

    Args:
        module: whose method is replaced.
        optimizer: its class and arguments, or None.
        schedule: the learning rates', or None.
        together: gives what ``configure_optimizers`` returns, from the module, the optimizer and the schedule.
        fits: whether an optimizer is asked for at all.

    Raises:
        SettingError: there is a schedule and no optimizer.
        Exception: whatever the classes say of their arguments, at once where the module has parameters.
    """
    if optimizer is None:
        raise SettingError(
            f"--lr_scheduler {(schedule or {}).get('class_path')}: found no --optimizer, whose rate it is to change. "
            f"Expected one beside it, as --optimizer Adam --optimizer.lr 0.002."
        )

    said: set[str] = set()

    def configure_optimizers(module: LightningModule) -> Any:
        made = instantiate_class(module.parameters(), optimizer)
        given = together(module, made, instantiate_class(made, schedule) if schedule else None)
        if module._trainer is not None and module.trainer.ckpt_path is not None:
            left = _NO_SETTINGS | _SCHEDULED if schedule else _NO_SETTINGS
            made.register_load_state_dict_pre_hook(_Resumed(made, left, said))
        return given

    if next(module.parameters(), None) is not None:
        configure_optimizers(module)
    if fits and is_overridden("configure_optimizers", module):
        rank_zero_warn(f"--optimizer is used in the place of {type(module).__name__}.configure_optimizers.")
    update_wrapper(configure_optimizers, together)  # by which Lightning sees that there is one
    vars(module)["configure_optimizers"] = MethodType(configure_optimizers, module)


class _Resumed:
    """Says what an optimizer takes from a checkpoint in the place of its own settings.

    Args:
        optimizer: as the command line made it.
        left: settings that are not compared.
        said: what was said in earlier loads, as a search for a rate restores a state as well; added to.
    """

    def __init__(self, optimizer: Optimizer, left: Collection[str], said: set[str]) -> None:
        self._said = said
        self._own = [_settings(group, left) for group in optimizer.param_groups]
        self._left = left

    def __call__(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        """The optimizer's own state where the given one is of another kind, or None, which takes the given one."""
        if of_another_kind(optimizer, state["param_groups"]):
            kind = type(optimizer).__name__
            if self._first("kind"):
                rank_zero_warn(
                    f"--ckpt_path: its optimizer is another than {kind} of --optimizer, which starts anew with its own "
                    f"settings."
                )
            return optimizer.state_dict()
        found = {
            f"{name} {given[name]} in place of {value}": None
            for own, group in zip(self._own, state["param_groups"], strict=False)  # torch refuses others
            for name, value in own.items()
            if (given := _settings(group, self._left)).get(name, value) != value
        }
        if found and self._first("settings"):
            rank_zero_warn(
                f"--ckpt_path: the settings of its optimizer are used, and not those of --optimizer: "
                f"{', '.join(found)}."
            )
        return None

    def _first(self, what: str) -> bool:
        """Whether this is said for the first time."""
        new = what not in self._said
        self._said.add(what)
        return new


def _settings(group: Mapping[str, Any], left: Collection[str]) -> dict[str, Any]:
    """The settings of a group, the rate as it is without its schedule, with lists of a file as tuples."""
    rated = {**group, "lr": group.get("initial_lr", group["lr"])}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in rated.items() if name not in left
    }
