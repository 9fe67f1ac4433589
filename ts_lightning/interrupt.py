"""Ctrl-C while one of this package's programs imports what it needs, which takes seconds."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePath
from types import FrameType

#: a shell's exit code for a program that Ctrl-C ended
INTERRUPTED = 128 + signal.SIGINT
_SCRIPT, _PACKAGE = "ts-lightning", "ts_lightning"


def end_quietly() -> None:
    """Have Ctrl-C end the process without a traceback, if it is a program of this package: there is nothing to lose."""
    if _is_a_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def as_usual() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_a_program() -> bool:
    """Whether Python was started for the script, or by ``-m`` for a module of this package."""
    name, words = (sys.argv or [""])[0], sys.orig_argv
    if name != "-m":  # which stands there until the module has been found
        return PurePath(name).stem == _SCRIPT
    return "-m" in words[:-1] and words[words.index("-m") + 1].partition(".")[0] == _PACKAGE


def _end(signal_number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
