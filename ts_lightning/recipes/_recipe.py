"""A recipe as a program: the command line for one module and its data, with defaults that suit them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from ts_lightning.callbacks.monitor import TargetSpaceMonitor
from ts_lightning.cli import TargetSpaceCLI, run
from ts_lightning.cli.compare import DOES, compare
from ts_lightning.report import History

#: Lightning's advice that does not fit data held in memory
_QUIET = ("does not have many workers", "smaller than the logging interval")
#: steps from one observation of the monitor to the next; a recipe makes few
_OBSERVED = 50
_DESCRIPTION = (
    "{name}: without arguments, train in both spaces and compare; with options and no command, fit and then test. Each "
    "of the commands below has its own --help, which says every setting and its default."
)
_DEFAULTS: dict[str, Any] = {
    "trainer.devices": 1,
    "trainer.enable_model_summary": False,
    "trainer.num_sanity_val_steps": 0,
}


def first_step(history: History, name: str, level: float) -> str:
    """The step at which a metric was first at least at a level, or that it was not reached, or not measured.

    Args:
        history: of the run.
        name: of the metric.
        level: of it.
    """
    points = history.points(name)
    reached = next((f"{point.step:,}" for point in points if point.value >= level), "not reached")
    return reached if points else "not measured"


def recipe(
    name: str,
    cli: type[TargetSpaceCLI],
    model: type[LightningModule],
    data: type[LightningDataModule],
    defaults: Mapping[str, Any],
    pictures: Sequence[Callback],
    argv: Sequence[str] | None,
    commands: Mapping[str, str] | None = None,
) -> None:
    """Run a recipe: without arguments ``compare``; with options and no command ``fit`` and then ``test``.

    Args:
        name: the recipe's.
        cli: its command line.
        model: the module that it trains.
        data: the data module.
        defaults: of options, by name, beside those that all recipes share.
        pictures: callbacks that draw what the module predicts.
        argv: the command line's arguments; ``None`` takes the process's own.
        commands: further commands for the help to list, and what each does.

    Raises:
        SystemExit: with 2 after a user's mistake, with 130 after Ctrl-C, with 0 after ``--help``.
    """
    command = f"python -m ts_lightning.recipes.{name}"

    def make(arguments: Sequence[str]) -> None:
        for text in _QUIET:
            warnings.filterwarnings("ignore", message=f".*{text}")
        for library in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(library).setLevel(logging.WARNING)
        if not arguments or arguments[0] == "compare":
            program = resolve_name(f"ts_lightning.recipes.{name}:main")
            compare(command, arguments[1:], name, program, then_test=True)
            return
        alone = arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")
        cli(
            model,
            data,
            name=name,
            command=command,
            then_test=alone,
            commands={"compare": DOES, **(commands or {})},
            defaults={**_DEFAULTS, **defaults},
            trainer_defaults={"callbacks": [TargetSpaceMonitor(_OBSERVED), *pictures]},
            parser_kwargs={"description": _DESCRIPTION.format(name=name)},
            args=["fit", *arguments] if alone else list(arguments),
        )

    run(f"ts_lightning.recipes.{name}", make, argv)
