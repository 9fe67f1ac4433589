"""``ts-lightning dashboard``: the workspaces of :mod:`ts_lightning.cli.workspaces`, saved in a project of W&B."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ts_lightning.cli.parser import Parser
from ts_lightning.errors import TargetSpaceError, first_line

INSTALL = 'pip install "ts-lightning[wandb]"'


def main(argv: Sequence[str]) -> None:
    """Save both workspaces in a project of W&B, or write their definition to a file.

    Args:
        argv: the command line's arguments, behind ``dashboard``.

    Raises:
        TargetSpaceError: wandb or wandb-workspaces is not installed, an unusable name or file, or W&B does not take
            the workspaces.
        SystemExit: with 2 after a wrong option, with 0 after ``--help``.
    """
    parser = Parser(
        prog="ts-lightning dashboard",
        description="Save two workspaces in a project of W&B: one for a single run, one that compares both spaces.",
    )
    parser.add_argument("--entity", type=str, required=True, help="User or team that the project belongs to.")
    parser.add_argument("--project", type=str, required=True, help="Project that the runs are in.")
    parser.add_argument("--dry-run", type=Path | None, metavar="FILE", help="Write the definition (JSON) to this file.")
    options = parser.parse_args(list(argv))
    for option in ("entity", "project"):
        if not options[option] or "/" in options[option]:
            found = f"--{option}: found {options[option]!r}"
            raise TargetSpaceError(f"{found}; expected a name, as in wandb.ai/ENTITY/PROJECT.")
    try:
        from ts_lightning.cli.workspaces import definition, workspaces
    except ImportError as error:
        raise TargetSpaceError(
            f"the dashboard needs wandb and wandb-workspaces, and they could not be imported ({error}): {INSTALL}"
        ) from error
    made = workspaces(options.entity, options.project)
    if options.dry_run is None:
        for workspace in made:
            _save(workspace)
        return
    try:
        options.dry_run.write_text(json.dumps([definition(workspace) for workspace in made], indent=2), "utf-8")
    except OSError as error:
        raise TargetSpaceError(f"--dry-run '{options.dry_run}': cannot be written ({error.strerror}).") from error
    print(f"{options.dry_run}: {' and '.join(repr(workspace.name) for workspace in made)}, not saved in W&B")


def _save(workspace: Any) -> None:
    import wandb

    try:
        workspace.save()
    except wandb.errors.UsageError as error:
        raise TargetSpaceError(f"not logged in to W&B ({first_line(error)}): run wandb login.") from error
    except Exception as error:  # whatever the transport raises, which changes with wandb's releases: the cause is in it
        raise TargetSpaceError(
            f"W&B did not take the workspace for {workspace.entity}/{workspace.project} ({first_line(error)}): check "
            f"that entity and project exist, the login (wandb login), the network, and WANDB_BASE_URL for a server of "
            f"yours."
        ) from error
