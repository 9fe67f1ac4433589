"""The error that jsonargparse reports of a class: it wraps whatever importing or making the class raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from ts_lightning.errors import SettingError, first_line

_PARSER, _OURS = "jsonargparse", "ts_lightning"


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
    return f"its file cannot be imported. {short(place[0])}, line {place[1]}: {said}."


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


def short(file: str) -> str:
    """A file's path, from the present folder on if it is there."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
