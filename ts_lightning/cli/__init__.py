"""The command line: ``python -m ts_lightning``, which is also ``ts-lightning``, and what the recipes are built on."""

from ts_lightning.cli.lightning_cli import TargetSpaceCLI
from ts_lightning.cli.program import run

__all__ = ["TargetSpaceCLI", "run"]
