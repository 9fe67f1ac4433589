"""The program ``ts-lightning``: Lightning's commands for any module in target space, and this package's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ts_lightning.cli.compare import compare
from ts_lightning.cli.dashboard import main as dashboard
from ts_lightning.cli.export import main as export
from ts_lightning.cli.lightning_cli import TargetSpaceCLI
from ts_lightning.cli.program import run
from ts_lightning.errors import SettingError

_NAME, _COMMAND = "ts_lightning", "python -m ts_lightning"
_OWN = ("compare", "export", "dashboard")
_DESCRIPTION = """Train any LightningModule in target space. Beside Lightning's own commands below there are

    compare     train in target and in weight space, and compare
    export      write a checkpoint as plain weights, safetensors or ONNX
    dashboard   make W&B workspaces for the runs of a project

each with its --help."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with these command-line arguments; ``None`` takes the process's own."""

    def make(arguments: Sequence[str]) -> None:
        command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if command == "compare":
            compare(_COMMAND, rest, _NAME)
        elif command == "export":
            export(rest)
        elif command == "dashboard":
            dashboard(rest)
        elif not command.startswith("-") and command not in TargetSpaceCLI.subcommands():
            known = ", ".join([*TargetSpaceCLI.subcommands(), *_OWN])
            found = f"the command '{command}'" if command else "no command"
            raise SettingError(f"found {found}; expected one of {known}.")
        else:
            TargetSpaceCLI(args=list(arguments), parser_kwargs={"description": _DESCRIPTION})

    run("ts-lightning", make, argv)


def script() -> None:
    """The script ``ts-lightning``, which finds modules in the present folder as ``python -m ts_lightning`` does."""
    sys.path.insert(0, os.getcwd())
    main()
