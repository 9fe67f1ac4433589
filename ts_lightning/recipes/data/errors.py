"""What is raised for data that cannot be used."""

from __future__ import annotations

import importlib
from typing import Any

from ts_lightning.errors import first_line

INSTALL = "pip install 'ts-lightning[recipes]'"


class DataError(ValueError):
    """Data that is missing or unusable: its one line says what was found, what was expected and what to do."""


def imported(module: str, package: str, install: str = INSTALL) -> Any:
    """The module of an optional package.

    Args:
        module: its name.
        package: what to install for it.
        install: the command that does so.

    Raises:
        DataError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        raise DataError(f"{package} could not be imported ({first_line(error)}). Install it: {install}") from error
