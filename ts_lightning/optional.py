"""Packages that only some installations have: imported on use, or refused with the command that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from ts_lightning.errors import DataError, first_line

INSTALL = "pip install 'ts-lightning[recipes]'"


def imported(module: str, package: str, install: str = INSTALL) -> Any:
    """Import a module of an optional package.

    Args:
        module: the module's name.
        package: the name of the package that holds the module.
        install: the command that installs the package.

    Raises:
        DataError: the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        raise DataError(f"{package} could not be imported ({first_line(error)}). Install it: {install}") from error
