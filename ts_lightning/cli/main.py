"""The program ``ts-lightning``: Lightning's commands for any module in target space, and this package's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from ts_lightning import __version__
from ts_lightning.cli.compare import DOES, compare
from ts_lightning.cli.dashboard import main as dashboard
from ts_lightning.cli.export import main as export
from ts_lightning.cli.inspect import DOES as INSPECTS
from ts_lightning.cli.inspect import main as inspect
from ts_lightning.cli.lightning_cli import TargetSpaceCLI
from ts_lightning.cli.program import run
from ts_lightning.errors import SettingError

#: what is typed for the program; the script is installed with the package
_COMMAND = "ts-lightning"
_DESCRIPTION = "Train any LightningModule in target space. Each of the commands below has its own --help."
#: this package's commands: what each does, and the function that takes the arguments behind it
_OWN: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "compare": (DOES, lambda arguments: compare(_COMMAND, arguments, "ts_lightning", main)),
    "inspect": (INSPECTS, lambda arguments: inspect(_COMMAND, arguments)),
    "export": ("write a checkpoint as plain weights, safetensors or ONNX", export),
    "dashboard": ("make W&B workspaces for the runs of a project", dashboard),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with these command-line arguments; ``None`` takes the process's own."""

    def make(arguments: Sequence[str]) -> None:
        command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if command in _OWN:
            _OWN[command][1](rest)
        elif not command.startswith("-") and command not in TargetSpaceCLI.subcommands():
            known = ", ".join([*TargetSpaceCLI.subcommands(), *_OWN])
            found = f"the command '{command}'" if command else "no command"
            raise SettingError(f"found {found}; expected one of {known}.")
        else:
            TargetSpaceCLI(
                command=_COMMAND,
                commands={name: does for name, (does, _) in _OWN.items()},
                args=list(arguments),
                parser_kwargs={"description": _DESCRIPTION, "version": __version__},
            )

    run("ts-lightning", make, argv)


def script() -> None:
    """The script ``ts-lightning``, which finds modules in the present folder as ``python -m ts_lightning`` does."""
    sys.path.insert(0, os.getcwd())
    main()
