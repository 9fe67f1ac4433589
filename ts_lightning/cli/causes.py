"""The error that jsonargparse reports of a class: it wraps whatever importing or making the class raises."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from ts_lightning.errors import SettingError, first_line

_PARSER, _OURS = "jsonargparse", "ts_lightning"
#: what torch makes from a user's numbers, by the module that refuses them
_MADE = {
    "torch.optim.lr_scheduler": ("schedule", "--lr_scheduler or of what the module makes it with"),
    "torch.optim": ("optimizer", "--optimizer or of what the module makes it with"),
    "torch.utils.data": ("loader", "--data or of what the module makes it with"),
}
#: whose places in a file say nothing to a user
_LIBRARIES = {"torch", "lightning", "jsonargparse", "ts_lightning", "__main__", "runpy", "contextlib"}
#: a disk on which nothing can be written, or nothing more
_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
_NO_SAMPLES = "num_samples should be a positive"


def cause(error: BaseException) -> BaseException:
    """The error that jsonargparse has wrapped, or ``error`` itself if that is none of jsonargparse's."""
    while error.__cause__ is not None and _package(error) == _PARSER:
        error = error.__cause__
    return error


def unwrapped(make: Callable[[], object]) -> None:
    """Make classes with jsonargparse; what one of them raises is raised as it is.

    Args:
        make: makes them.

    Raises:
        SettingError: a class of this package does not take a value.
    """
    try:
        make()
        return
    except Exception as error:  # whatever a user's class raises
        found = cause(error)
        if found is error:
            raise
        if isinstance(found, (TypeError, ValueError)) and _package(found) == _OURS:
            raise SettingError(first_line(found)) from error
    raise found  # behind the block, so that its context is its own


def of_an_import(error: BaseException | None) -> str | None:
    """What went wrong, and where, if a file failed when it was imported; ``None`` for any other error."""
    if error is None:
        return None
    found = cause(error)
    if isinstance(found, SyntaxError) and found.filename:
        place: tuple[str, int | None] = (found.filename, found.lineno)
        text = found.msg
    else:
        bodies = [(frame, line) for frame, line in walk_tb(found.__traceback__) if _is_body(frame)]
        if not bodies:
            return None
        frame, line = bodies[-1]
        place, text = (frame.f_code.co_filename, line), str(found)
    said = f"{type(found).__name__}: {text}" if text else type(found).__name__
    return f"its file cannot be imported. {_short(place[0])}, line {place[1]}: {said}."


def of_a_setting(error: BaseException) -> str | None:
    """What is said of a number that an optimizer, schedule or loader of torch refuses when it is made, or ``None``."""
    frames = list(walk_tb(error.__traceback__))
    if not frames or not isinstance(error, (TypeError, ValueError)) or frames[-1][0].f_code.co_name != "__init__":
        return None
    module = module_of(frames[-1][0])
    made = next((made for name, made in _MADE.items() if f"{module}.".startswith(f"{name}.")), None)
    if made is None:
        return None
    what, where = made
    text = first_line(error).rstrip(".")
    if text.startswith(_NO_SAMPLES):
        text, where = "its data set is empty, and it shuffles", "data with at least one sample"
    else:
        where = f"other values of {where}"
    return f"The {what} cannot be made{_place(error)}: {text}. Expected {where}."


def of_a_disk(error: BaseException) -> str | None:
    """What is said of a disk that is full or read-only, or ``None`` for any other error."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    file = f"'{error.filename2 or error.filename}'" if error.filename else "A file"
    expected = "Expected a disk with room for it; that of a run is --out FOLDER."
    return f"{file} cannot be written{_place(error)}: {error.strerror}. {expected}"


def _place(error: BaseException) -> str:
    """The last line of a user's own, or of another library's, on the way to an error, if there is one."""
    frames = walk_tb(error.__traceback__)
    own = [(frame, line) for frame, line in frames if module_of(frame).partition(".")[0] not in _LIBRARIES]
    return f" ({_short(own[-1][0].f_code.co_filename)}, line {own[-1][1]})" if own else ""


def module_of(frame: FrameType) -> str:
    """The module whose code a frame runs."""
    return str(frame.f_globals.get("__name__", ""))


def _is_body(frame: FrameType) -> bool:
    """Whether a frame is the body of a file, and not one of importlib's."""
    return frame.f_code.co_name == "<module>" and not frame.f_code.co_filename.startswith("<")


def _package(error: BaseException) -> str:
    """The package whose code raised it."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return module_of(frames[-1]).partition(".")[0] if frames else ""


def _short(file: str) -> str:
    """A file's path, from the present folder on if it is there."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
