"""What a user gave and meant: by an option that nobody knows, a class that there is not, one that another replaces."""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import redirect_stderr
from pkgutil import resolve_name
from typing import Any

from ts_lightning.errors import SettingError
from ts_lightning.lightning.other_name import WRITE, of_other_name

#: what other programs, or older Lightnings, call an option, beside words that stand in its name here
_ELSEWHERE = {
    "batch": "data.batch_size",
    "checkpoint": "ckpt_path",
    "checkpoint_callback": "trainer.enable_checkpointing",
    "ckpt": "ckpt_path",
    "cpu": "trainer.accelerator",
    "cuda": "trainer.accelerator",
    "device": "trainer.accelerator",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "gpu": "trainer.devices",
    "gpus": "trainer.devices",
    "grad_clip": "trainer.gradient_clip_val",
    "iterations": "trainer.max_steps",
    "learning_rate": "model.lr",
    "num_processes": "trainer.devices",
    "output": "out",
    "output_dir": "out",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "seed": "seed_everything",
    "steps": "trainer.max_steps",
    "weights_summary": "trainer.enable_model_summary",
}
#: by which option a file is given
_FILES = {".yaml": "config", ".yml": "config", ".ckpt": "ckpt_path"}
_MOST = 3


def options(word: str, known: Collection[str]) -> list[str]:
    """The options that are meant by one that nobody knows, the likeliest first.

    Args:
        word: the unknown option, without dashes: ``epochs``.
        known: the options that there are, with dots: ``trainer.max_epochs``.
    """
    word = word.lstrip("-").replace("-", "_")
    elsewhere = _ELSEWHERE.get(word.removeprefix("trainer."), "")
    if elsewhere in known:
        return [elsewhere]
    same = [name for name in known if name.rpartition(".")[2] == word]
    return same[:_MOST] or difflib.get_close_matches(word, known, n=_MOST)


def bare(word: str) -> str:
    """What is meant by a word without dashes, as the path of a file."""
    option = next((option for ending, option in _FILES.items() if word.endswith(ending)), None)
    return f"Did you mean --{option} {word}?" if option else "Options begin with --."


def classes(path: str, base: str) -> str:
    """What is wrong with the path of a class that cannot be used, and what to do, in one line.

    Args:
        path: as it was given: ``package.module.Class``, or a name alone.
        base: the path of the class that it has to be derived from.
    """
    kind: type[Any] = resolve_name(base)
    module, _, name = path.rpartition(".")
    if not module:
        near = difflib.get_close_matches(name, {found.__name__ for found in _below(kind)}, n=_MOST)
        expected = f"Did you mean {' or '.join(near)}?" if near else "Expected the path of one, package.module.Class."
        return f"no {kind.__name__} is known by this name. {expected}"
    try:
        there = vars(importlib.import_module(module))
    except ImportError as error:
        return (
            f"it cannot be imported ({error}). Expected package.module.Class: start the command in the folder that "
            f"holds the module, or install its package."
        )
    own = [found for found, value in there.items() if isinstance(value, type) and issubclass(value, kind)]
    near = difflib.get_close_matches(name, own, n=1)
    if near and name not in there:
        return f"{module} has no '{name}'. Did you mean {module}.{near[0]}?"
    if name in there and isinstance(there[name], type) and of_other_name(there[name]):
        return f"found a class of pytorch_lightning. {WRITE}"
    listed = ", ".join(own)
    wrong = f"it is no {kind.__name__}" if name in there else f"{module} has no '{name}'"
    return f"{wrong}. Expected {f'one of {listed}' if listed else f'a {kind.__name__}'}."


def given(parser: Any, arguments: Any) -> Any:
    """What was given on the command line and in config files, without defaults.

    Args:
        parser: the program's.
        arguments: its arguments; ``None`` takes the process's own.
    """
    words = arguments is None or isinstance(arguments, list)
    return (parser.parse_args if words else parser.parse_object)(arguments, defaults=False)


def replaced(said: Any, used: Any, kind: Callable[..., Any] | None) -> list[str]:
    """What was said of a module and is not used, each with what is: ``--model.width 8 in place of 4``.

    Args:
        said: the module's class and arguments on the command line, without defaults; ``None`` where there are none.
        used: those that are used.
        kind: the module's class, if the command line names none.
    """
    if said is None:
        return []
    named, taken = said.get("class_path"), used.get("class_path")
    if named != taken:  # whose arguments are others
        return [f"--model {taken} in place of {named}"] if named else []
    made = resolve_name(named) if named else kind
    parameters = inspect.signature(made).parameters if made else {}
    lost = []
    for name, value in said.items():
        option = name.removeprefix("init_args.")
        # an argument that is None by default, as the number of classes, the module has taken from its data
        left = value is None and option in parameters and parameters[option].default is None
        if name in used and used.get(name) != value and not left:
            lost.append(f"--model.{option} {used.get(name)} in place of {value}")
    return lost


def say_replaced(file: Any, lost: Collection[str]) -> None:
    """Warn of what was said of a module and is not used (:func:`replaced`), a checkpoint's being used."""
    if lost:
        warnings.warn(
            f"--ckpt_path {file}: its hyperparameters are used, and not those of options and config files: "
            f"{', '.join(lost)}.",
            stacklevel=3,
        )


def within_a_checkpoint(parse: Callable[[], None], file: Any) -> None:
    """Parse a checkpoint's hyperparameters as arguments of the module.

    Args:
        parse: does it; a mistake is said and ends the program.
        file: the checkpoint.

    Raises:
        SettingError: the module does not take them.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parse()
    except SystemExit as error:
        found = said.getvalue().partition("error: ")[2].partition(" All options:")[0].splitlines()
        raise SettingError(
            f"--ckpt_path {file}: its hyperparameters are no arguments of the module ({' '.join(found[:1])}). Expected "
            f"a checkpoint of the same module."
        ) from error


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    """All classes that are derived from ``kind``, as far as they are imported."""
    for derived in kind.__subclasses__():
        yield derived
        yield from _below(derived)
