"""What torch, Lightning and the disk refuse in the course of a command, which is a user's mistake and not a fault.

An error counts as one if torch, Lightning or Python raises it behind the last line of the user's own. Whatever a user's
own line raises is left to its traceback.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from traceback import walk_tb
from types import FrameType
from typing import Any

from ts_lightning.cli.causes import module_of, short
from ts_lightning.errors import first_line

#: what torch makes from a user's numbers, by the module that refuses them
_MADE: dict[str, tuple[str, str]] = {
    "torch.optim.lr_scheduler": ("schedule", "--lr_scheduler or of what the module makes it with"),
    "torch.optim": ("optimizer", "--optimizer or of what the module makes it with"),
    "torch.utils.data": ("loader", "--data or of what the module makes it with"),
    "torch.nn.modules": ("layer", "--model"),
}
#: of these, what may refuse a number as late as in its step, and what it raises then
_USED, _WHEN_USED = ("schedule", "optimizer"), (ArithmeticError, LookupError, RuntimeError)
_WHEN_MADE = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
#: whose places in a file say nothing to a user
_LIBRARIES = {"torch", "lightning", "jsonargparse", "ts_lightning", "__main__", "runpy", "contextlib"}
#: a disk on which nothing can be written, or nothing more
_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
#: how errors of a file that is not written to its end begin or end, which are no OSErrors: torch's and safetensors'
_OF_TORCH, _OF_SAFETENSORS = "inline_container.cc", re.compile(r"\(os error (\d+)\)")
#: how torch begins what it says of weights with other names or shapes
_OF_WEIGHTS = "Error(s) in loading state_dict for "
_NO_SAMPLES = "num_samples should be a positive"


def said(error: BaseException) -> str | None:
    """What is said of an error that is one of these, or ``None``."""
    return of_a_setting(error) or of_a_disk(error) or of_a_checkpoint(error) or of_lightning(error)


def of_a_setting(error: BaseException) -> str | None:
    """What is said of a number that an optimizer, schedule, loader or layer of torch refuses, or ``None``.

    Most are refused when it is made; a schedule or an optimizer may refuse one when it makes a step.
    """
    frames = _behind_own(error)
    made = next((found for frame in frames if _is_constructor(frame) and (found := _made(frame))), None)
    if made is not None and isinstance(error, _WHEN_MADE):
        what, where = made
        does, text = "be made", _told(error, frames)
    elif frames and isinstance(error, _WHEN_USED) and (made := _made(frames[-1])) and made[0] in _USED:
        what, where = made
        does, text = "make its step", _told(error, frames)
    else:
        return None
    if text.startswith(_NO_SAMPLES):
        text, where = "its data set is empty, and it shuffles", "data with at least one sample"
    else:
        where = f"other values of {where}"
    return f"The {what} cannot {does}{_place(error)}: {text}. Expected {where}."


def of_a_checkpoint(error: BaseException) -> str | None:
    """What is said of a checkpoint whose weights are others than the module's, or ``None`` for any other error."""
    lines = [line.strip() for line in str(error).splitlines()]
    if not isinstance(error, RuntimeError) or not lines or not lines[0].startswith(_OF_WEIGHTS) or any(_own(error)):
        return None
    module = lines[0].removeprefix(_OF_WEIGHTS).rstrip(":")
    return (
        f"--ckpt_path: its weights are not those of {module} ({'; '.join(line.rstrip('. ') for line in lines[1:3])}). "
        f"Expected a checkpoint of the same module, made with the same arguments."
    )


def of_lightning(error: BaseException) -> str | None:
    """What Lightning says of settings that it refuses in the course of a run, or ``None`` for any other error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not frames or not isinstance(error, (RuntimeError, TypeError, ValueError)) or any(_own(error)):
        return None
    return first_line(error) if module_of(frames[-1]).startswith("lightning.pytorch.") else None


def of_a_disk(error: BaseException) -> str | None:
    """What is said of a disk that is full or read-only, or ``None`` for any other error."""
    expected = "Expected a disk with room for it; that of a run is --out FOLDER."
    if isinstance(error, OSError) and error.errno in _DISK:
        file, said = error.filename2 or error.filename, error.strerror
    elif isinstance(error, RuntimeError) and _OF_TORCH in str(error) and (saving := _saving(error)):
        file, said = saving.get("f"), "PyTorch could not write all of it"
        file = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    elif (number := _OF_SAFETENSORS.search(str(error))) and int(number[1]) in _DISK and _is_of_safetensors(error):
        file, said = None, os.strerror(int(number[1]))
    else:
        return None
    name = f"'{file}'" if file else "A file"
    return f"{name} cannot be written{_place(error)}: {said}. {expected}"


def _saving(error: BaseException) -> Mapping[str, Any] | None:
    """The local names of ``torch.save``, if an error comes from it."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    saves = [frame for frame in frames if module_of(frame) == "torch.serialization" and frame.f_code.co_name == "save"]
    return saves[-1].f_locals if saves else None


def _is_of_safetensors(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"


def _made(frame: FrameType) -> tuple[str, str] | None:
    """What of torch's the code of a frame makes or is, and by which options, if it is one of those."""
    module = module_of(frame)
    return next((made for name, made in _MADE.items() if f"{module}.".startswith(f"{name}.")), None)


def _told(error: BaseException, frames: list[FrameType]) -> str:
    """What an error says, with the numbers that it does not name, as in a division by zero."""
    text = first_line(error).rstrip(".")
    if not isinstance(error, _WHEN_USED):
        return text
    owner = next((frame for frame in frames if _made(frame) and "self" in frame.f_locals), None)
    if owner is None:
        return text
    made = owner.f_locals["self"]
    names = inspect.signature(type(made).__init__).parameters
    known = owner.f_locals if _is_constructor(owner) else {**vars(made), **getattr(made, "defaults", {})}
    numbers = {name: known[name] for name in names if isinstance(known.get(name), (int, float))}
    return f"{text}, by {type(made).__name__}({', '.join(f'{name}={value}' for name, value in numbers.items())})"


def _is_constructor(frame: FrameType) -> bool:
    return frame.f_code.co_name == "__init__"


def _own(error: BaseException) -> Iterator[tuple[int, FrameType, int]]:
    """The frames of a user's own, or of another library's, on the way to an error: their places, and lines."""
    for place, (frame, line) in enumerate(walk_tb(error.__traceback__)):
        if module_of(frame).partition(".")[0] not in _LIBRARIES:
            yield place, frame, line


def _behind_own(error: BaseException) -> list[FrameType]:
    """The frames behind the last one of a user's own."""
    last = max((place for place, _, _ in _own(error)), default=-1)
    return [frame for frame, _ in walk_tb(error.__traceback__)][last + 1 :]


def _place(error: BaseException) -> str:
    """The last line of a user's own, or of another library's, on the way to an error, if there is one."""
    own = list(_own(error))
    return f" ({short(own[-1][1].f_code.co_filename)}, line {own[-1][2]})" if own else ""
