"""The help of Lightning's commands: short texts in the place of long ones, and names in the place of class paths."""

from __future__ import annotations

import re
from typing import Any

#: what each command does
COMMANDS = {
    "fit": "train; ends with a table, figures and report.html",
    "validate": "measure a checkpoint on the validation data",
    "test": "measure a checkpoint on the test data",
    "predict": "write what predict_step returns",
}
_OPTIONS = {
    "ckpt_path": "The checkpoint to resume from, or to measure: a file, or last, hpc or registry, as Lightning "
    "has them.",
    "weights_only": "Whether the checkpoint may hold nothing but tensors and built-in types; false allows objects of "
    "any class, which a file that you do not trust can misuse.",
    "trainer.barebones": "Leave out all that costs time: checkpoints, loggers, bars, summaries, self.log.",
    "trainer.benchmark": "Have cuDNN look for the fastest algorithms.",
    "trainer.check_val_every_n_epoch": "Validate after every so many epochs; null: val_check_interval counts batches "
    "over all epochs.",
    "trainer.deterministic": "Use deterministic algorithms only; warn: where there are any.",
    "trainer.logger": "A logger or several, beside metrics.csv; false: none.",
    "trainer.max_epochs": "Stop after so many epochs; -1: never.",
    "trainer.max_steps": "Stop after so many optimizer steps; -1: never.",
    "trainer.max_time": "Stop after so long, as DD:HH:MM:SS.",
    "trainer.use_distributed_sampler": "Give each of several processes its share of the samples.",
    "trainer.val_check_interval": "Validate after so many training batches, or this share of an epoch, or a time.",
}
_TITLES = {
    "trainer": "Lightning's Trainer",
    "model": "the module",
    "data": "the data module",
    "optimizer": "optimizer, in the place of the module's",
    "lr_scheduler": "learning rate schedule, in the place of the module's",
}
#: classes that a user does not name
_INSIDE = ("ts_lightning.cli.", "ts_lightning.callbacks.pictures.predictions.", "lightning.pytorch.cli.SaveConfig")


def shorten(parser: Any, usage: str, command: str, own: set[str]) -> None:
    """Shorten the help of a command.

    Args:
        parser: of the command.
        usage: what is typed for it.
        command: its name.
        own: the groups of options that have a title of their own, as those of a recipe's module.
    """
    parser.usage = f"{usage} [options]"
    parser.description = f"{COMMANDS[command].capitalize()}."
    for action in parser._actions:
        action.help = _OPTIONS.get(action.dest, action.help)
    for name, group in parser.groups.items():
        if name in _TITLES and name not in own:
            group.title = _TITLES[name]
    for group in parser._action_groups:
        if any(action.dest == "ckpt_path" for action in group._group_actions):
            group.title = "checkpoint"


def names(text: str) -> str:
    """An option's help with the names of known classes in the place of their paths; ``--option NAME`` takes both."""
    head, known, paths = text.partition(", known subclasses: ")
    if not known:
        return text
    paths, closed, rest = paths.rpartition(")")
    found = [path for path in re.split(r",\s*", paths) if not path.startswith(_INSIDE)]
    return f"{head}, known: {', '.join(dict.fromkeys(path.rpartition('.')[2] for path in found))}{closed}{rest}"
