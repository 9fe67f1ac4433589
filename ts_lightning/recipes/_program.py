"""A recipe as a program: options from a function's signature, one line for a user's mistake, a folder for its files."""

from __future__ import annotations

import inspect
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import lightning
import torch

import ts_lightning
from ts_lightning.data.errors import INSTALL, DataError
from ts_lightning.errors import TargetSpaceError
from ts_lightning.recipes._training import Outcome

#: a shell's exit code for a program that Ctrl-C ended
_INTERRUPTED = 128 + signal.SIGINT


class RecipeError(ValueError):
    """An option or a folder that cannot be used: its one line says what was found, expected and what to do."""


class Run:
    """Where a run leaves its files; nothing is written before :meth:`create`, when the input is known to be good."""

    def __init__(self, recipe: str, out: Path | None, settings: Callable[[dict[str, Any]], str]) -> None:
        self.recipe = recipe
        self._out = out
        self._settings = settings

    def create(self, **resolved: Any) -> Path:
        """Make the folder and write ``settings.yaml``, which ``--config`` reads.

        Args:
            resolved: options whose value was not known when they were parsed.

        Raises:
            RecipeError: the folder holds a run already, or cannot be made.
        """
        folder = self._out or _unused(Path("runs") / self.recipe / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        try:
            if folder.is_dir() and any(folder.iterdir()):
                raise RecipeError(f"--out '{folder}': found files in it; expected a new or an empty folder.")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "settings.yaml").write_text(self._head() + self._settings(resolved), encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"--out '{folder}': cannot be made or written ({error.strerror}).") from error
        return folder

    def _head(self) -> str:
        versions = [("ts_lightning", ts_lightning), ("torch", torch), ("lightning", lightning)]
        return (
            f"# python -m ts_lightning.recipes.{self.recipe} --config THIS_FILE\n"
            f"# {', '.join(f'{name} {module.__version__}' for name, module in versions)}, "
            f"{torch.get_num_threads()} CPU threads\n"
        )


def program(recipe: str, train: Callable[..., Outcome], argv: Sequence[str] | None) -> None:
    """Run ``train(run, **options)`` with options parsed from ``argv``.

    Args:
        recipe: the recipe's name.
        train: its first argument is a :class:`Run`; the others, their types, defaults and documentation become options.
        argv: the command line's arguments; ``None`` takes the process's own.

    Raises:
        SystemExit: with 2 after a user's mistake, with 130 after Ctrl-C, with 0 after ``--help``.
    """
    name = f"ts_lightning.recipes.{recipe}"
    try:
        from jsonargparse import ArgumentParser
    except ModuleNotFoundError:
        _fail(name, f"jsonargparse is not installed; recipes need it: {INSTALL}")
    parser = ArgumentParser(
        prog=f"python -m {name}", description=train.__doc__.split("\n\n")[0] if train.__doc__ else None
    )
    parser.add_argument("--config", action="config", help="Read options from a YAML file, as settings.yaml of a run.")
    parser.add_argument("--out", type=Path | None, help=f"Folder for the run's files (default: runs/{recipe}/<time>).")
    parser.add_function_arguments(train, skip={"run"}, as_group=False)
    options = parser.parse_args(_with_values(sys.argv[1:] if argv is None else argv, train))

    def settings(resolved: dict[str, Any]) -> str:
        final = options.clone()
        for name in ("out", "config"):
            final.pop(name, None)
        for name, value in resolved.items():
            final[name] = value
        text: str = parser.dump(final)
        return text

    try:
        arguments = parser.instantiate(options)
    except (TypeError, ValueError) as error:  # the settings of target space check themselves
        _fail(name, str(error))
    out = arguments.pop("out")
    arguments.pop("config", None)
    with plain(name):
        if train(Run(recipe, out, settings), **arguments.as_dict()).interrupted:
            sys.exit(_INTERRUPTED)


@contextmanager
def plain(name: str) -> Iterator[None]:
    """One line for a user's mistake and for a warning, in the place of a traceback or a line of code.

    Args:
        name: the program's, which errors begin with.

    Raises:
        SystemExit: with 2 after a user's mistake, with 130 after Ctrl-C.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            yield
        except (DataError, RecipeError, TargetSpaceError) as error:
            _fail(name, str(error))
        except ModuleNotFoundError as error:
            _fail(name, f"{error.name} is not installed; recipes need it: {INSTALL}")
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)


def expect(option: str, value: float, minimum: float, *, below: float = float("inf"), strict: bool = False) -> None:
    """Check that ``minimum <= value < below``; ``strict`` excludes the minimum.

    Raises:
        RecipeError: it is not so.
    """
    if (minimum < value if strict else minimum <= value) and value < below:
        return
    bound = f"above {minimum:g}" if strict else f"at least {minimum:g}"
    limit = "" if below == float("inf") else f" and below {below:g}"
    raise RecipeError(f"{option}: found {value}; expected a number {bound}{limit}.")


def _with_values(argv: Sequence[str], train: Callable[..., Outcome]) -> list[str]:
    """The arguments with ``true`` given to switches that stand alone, which jsonargparse wants to be told."""
    switches = {f"--{name}" for name, option in inspect.signature(train).parameters.items() if option.default is False}
    alone = [i + 1 == len(argv) or argv[i + 1].startswith("-") for i in range(len(argv))]
    return [f"{word}=true" if word in switches and alone[i] else word for i, word in enumerate(argv)]


def _unused(folder: Path) -> Path:
    """``folder``, or with a number behind it if another run has it."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    return candidate


def _fail(name: str, message: str) -> NoReturn:
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(2)
