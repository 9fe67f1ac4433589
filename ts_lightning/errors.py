"""The exceptions of this package, whose texts say what was found, what was expected and what to do."""

from collections.abc import Sequence
from pathlib import Path


class TargetSpaceError(RuntimeError):
    """Raised, before any work is lost, where target space cannot do what was asked.

    Beside it there are ``SettingError``, for a setting, file or folder that cannot be used, and ``DataError``, for data
    that is missing or unusable. Both are of ``ts_lightning.errors``, and each is a ``ValueError``.
    """


class NothingToSolve(TargetSpaceError):
    """Raised where no layer of a model can be solved."""


class Unreached(TargetSpaceError):
    """Raised where the reference forward does not call modules that are to be solved.

    Args:
        text: what is said.
        modules: their names.
        layers: the names of their layers, where these are known.
    """

    def __init__(self, text: str, modules: tuple[str, ...] = (), layers: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.modules, self.layers = modules, layers


class EndlessLoop(TargetSpaceError):
    """Raised where a loop of forward over a layer does not come to its end on the reference batch."""


class SettingError(ValueError):
    """A setting, file or folder that cannot be used."""


class DataError(ValueError):
    """Data that is missing or unusable: its one line says what was found, what was expected and what to do."""


def first_line(error: BaseException) -> str:
    """What an error says in its first line; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def instead(given: object) -> str:
    """How a message names what was given in the place of an object of another kind, as "the class Net" or "a str"."""
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"


def meant_in(folder: Path, name: str) -> str:
    """What is asked of a folder in the place of its file ``name``, if it has one."""
    return f" Did you mean {folder / name}?" if (folder / name).is_file() else ""


def expect(option: str, value: float, minimum: float, *, below: float = float("inf"), strict: bool = False) -> None:
    """Check that ``minimum <= value < below``; ``strict`` excludes the minimum.

    Raises:
        SettingError: it is not so, or the value is no number.
    """
    try:
        if (minimum < value if strict else minimum <= value) and value < below:
            return
    except (TypeError, ValueError, RuntimeError):  # no number, or several
        pass
    bound = f"above {minimum:g}" if strict else f"at least {minimum:g}"
    limit = "" if below == float("inf") else f" and below {below:g}"
    found = repr(value) if isinstance(value, str) else value
    raise SettingError(f"{option}: found {found}; expected a number {bound}{limit}.")
