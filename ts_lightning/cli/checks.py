"""What is wrong with a command that the parser takes: names in its config files, or no data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from ts_lightning.errors import SettingError

_LOADERS = {
    "fit": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


def check_keys(files: Iterable[Any], known: Sequence[str]) -> None:
    """Refuse unknown names at the top of config files; jsonargparse takes an empty group of any name.

    Args:
        files: as jsonargparse has read them.
        known: the names that there are.

    Raises:
        SettingError: there is another one.
    """
    for file in files:
        settings = yaml.safe_load(file.get_content())
        unknown = [str(name) for name in settings if name not in known] if isinstance(settings, dict) else []
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"expected {near[0]}" if near else f"expected one of {', '.join(known)}"
            raise SettingError(f"--config {file}: found '{unknown[0]}'; {hint}.")


def check_data(module: LightningModule, command: str) -> None:
    """Refuse a command without a data module, unless the module has the data itself.

    Args:
        module: what is trained or measured.
        command: of Lightning.

    Raises:
        SettingError: it has none.
    """
    if not is_overridden(_LOADERS[command], module, LightningModule):
        raise SettingError(
            f"--data is missing: expected the data module to use, --data package.module.Class, or a "
            f"module with {_LOADERS[command]}()."
        )
