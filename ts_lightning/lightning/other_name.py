"""Lightning's other name: ``pytorch_lightning`` is the same library as ``lightning.pytorch``, with its own classes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ts_lightning.errors import TargetSpaceError

#: why, and what to do, behind what was found
WRITE = (
    "These are one library under two names, which do not mix; ts_lightning uses lightning.pytorch. Write import "
    "lightning.pytorch as pl, in the place of import pytorch_lightning as pl, in all files of the project. Ahead of "
    "the import of an installed library, call ts_lightning.alias_pytorch_lightning()."
)


def of_other_name(kind: type[Any]) -> bool:
    """Whether a class is derived from one of ``pytorch_lightning``."""
    return any(base.__module__.partition(".")[0] == "pytorch_lightning" for base in kind.__mro__)


def refuse_other_name(kind: type[Any], where: str) -> None:
    """Refuse modules of ``pytorch_lightning``, whose Trainer knows nothing of target space.

    Args:
        kind: the class of one.
        where: the beginning of the message.

    Raises:
        TargetSpaceError: it is of that name.
    """
    if of_other_name(kind):
        raise TargetSpaceError(f"{where}: found {kind.__name__}, a class of pytorch_lightning. {WRITE}")


def say_others(trainer: Trainer) -> None:
    """Warn of callbacks and loggers of ``pytorch_lightning``, which Lightning does not know for what they are."""
    present: list[Any] = [*trainer.callbacks, *trainer.loggers]  # type: ignore[attr-defined]
    others = [type(one).__name__ for one in present if of_other_name(type(one))]
    if others:
        rank_zero_warn(
            f"Found {', '.join(others)} of pytorch_lightning in a Trainer of lightning.pytorch, which takes them for "
            f"callbacks and loggers of any kind: their checkpoints, finetuning or pictures may be missing. {WRITE}"
        )
