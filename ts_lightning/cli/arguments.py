"""The parser of commands with few options of their own: its errors are a line without usage, as those of others."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

_VALUE = re.compile(r"argument ([\w-]+): invalid (\w+) value: '(.*)'")
_OPTION = re.compile(r"argument ([\w-]+): (.+)")
_TYPES = {"int": "a whole number", "float": "a number"}


class Arguments(argparse.ArgumentParser):
    """argparse's parser, which leaves options over for another one, without abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end with exit code 2."""
        if (value := _VALUE.fullmatch(message)) and value[2] in _TYPES:
            message = f"{value[1]} {value[3]}: expected {_TYPES[value[2]]}"
        elif option := _OPTION.fullmatch(message):
            message = f"{option[1]}: {option[2]}"
        print(f"{self.prog}: error: {message}. All options: {self.prog} --help", file=sys.stderr)
        sys.exit(2)
