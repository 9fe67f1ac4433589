"""A command as a program: one line for a user's mistake and for a warning, and the exit codes."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ts_lightning.cli import causes, refused
from ts_lightning.cli.allocator import keep_freed_memory
from ts_lightning.errors import DataError, SettingError, TargetSpaceError, first_line
from ts_lightning.interrupt import INTERRUPTED, as_usual
from ts_lightning.optional import imported

#: packages that are not called as their modules are
_PACKAGES = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "yaml": "PyYAML",
}
#: modules of this package's extras
_EXTRAS = {
    "recipes": ("datasets", "jinja2", "jsonargparse", "matplotlib", "pyarrow", "tokenizers"),
    "wandb": ("wandb", "wandb_workspaces"),
    "export": ("onnx", "onnxscript", "safetensors"),
    "torchtext": ("torchtext",),
}
#: how Lightning says to install what it lacks
_HINT = re.compile(r"`pip install -\w+ '?([\w-]+)")
#: what this package does itself, on purpose, and Lightning's own use of something deprecated
_QUIET = ("LightningCLI's args parameter", "exists and is not empty", "LeafSpec", "Couldn't infer the batch indices")


@contextmanager
def plain(name: str) -> Iterator[None]:
    """One line for a user's mistake and for a warning, in the place of a traceback or a line of code.

    Args:
        name: the program's, which errors begin with.

    Raises:
        SystemExit: with 2 after a user's mistake, with 130 after Ctrl-C.
    """
    as_usual()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that a terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            yield
        except (DataError, SettingError, TargetSpaceError, MisconfigurationException) as error:
            fail(name, str(error))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except Exception as error:
            said = _missing(error) or _of_wandb(error) or refused.said(error)
            if said is None:
                raise
            fail(name, said)


def _missing(error: BaseException) -> str | None:
    """What is said of a package that is not installed, if that is what an error comes from."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    if cause is None:
        return None
    text = first_line(cause).rstrip(".")
    if hint := _HINT.search(text):  # which ends with how
        module = hint[1].replace("-", "_")
        return f"{hint[1]} is missing. Install it: {install(module)}" if _extra(module) else f"{text}."
    named = re.search(r"[`'\"]([\w.-]+)[`'\"]", text)
    module = (cause.name or (named[1] if named else "")).partition(".")[0]
    return f"{text}. Install it: {install(module)}" if module else f"{text}."


def _of_wandb(error: Exception) -> str | None:
    """What is said of a W&B run that did not begin, as without a login."""
    if not any(kind.__module__.startswith("wandb.errors") for kind in type(error).__mro__):
        return _of_a_setting_of_wandb(error)
    said = first_line(error).rstrip(".")
    return f"W&B did not begin the run ({said}): run wandb login, or keep it on this machine with WANDB_MODE=offline."


def _of_a_setting_of_wandb(error: Exception) -> str | None:
    """What is said of a value, as of a variable of the environment, that W&B's settings do not take."""
    frames = [causes.module_of(frame) for frame, _ in walk_tb(error.__traceback__)]
    if "wandb.sdk.wandb_settings" not in frames or not hasattr(error, "errors"):
        return None
    wrong = [
        f"WANDB_{'_'.join(map(str, each['loc'])).upper()}={each.get('input')}: {each['msg'].rstrip('.')}"
        for each in error.errors()
    ]
    return f"W&B did not begin the run ({'; '.join(wrong)}): correct the variable, or the logger's setting."


def install(module: str) -> str:
    """The command that installs the package with this module."""
    extra = _extra(module)
    return f"pip install {_PACKAGES.get(module, module)}" if extra is None else f"pip install 'ts-lightning[{extra}]'"


def _extra(module: str) -> str | None:
    """The extra that has the package with this module."""
    return next((extra for extra, modules in _EXTRAS.items() if module in modules), None)


def fail(name: str, message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(2)


def run(name: str, make: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Run a program.

    Args:
        name: the program's.
        make: does all of it, with the command line's arguments.
        argv: the command line's arguments; ``None`` takes the process's own.

    Raises:
        SystemExit: with 2 after a user's mistake, with 130 after Ctrl-C, with 0 after ``--help``.
    """
    with plain(name):
        imported("jsonargparse", "jsonargparse")
        keep_freed_memory()
        for text in _QUIET:
            warnings.filterwarnings("ignore", message=f".*{text}")
        # a line for every checkpoint, about a default of Lightning's
        logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
        make(sys.argv[1:] if argv is None else argv)
