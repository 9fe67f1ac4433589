"""The parser of the command line, whose errors are short and say what there is."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

_MANY = 20
#: lines of jsonargparse's errors that speak of its own inside
_INSIDE = re.compile(r"Expected a <class 'NoneType'>|^ *Given value type:|NestedArg\(")


class Parser(LightningArgumentParser):
    """jsonargparse's parser, as Lightning has it, with short errors and no abbreviations of options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def _get_formatter(self, *args: Any, **options: Any) -> Any:
        """jsonargparse's, but for the indented paragraphs of a description, which stay as they are."""
        formatter: Any = super()._get_formatter(*args, **options)
        fill = formatter._fill_text

        def filled(text: str, width: int, indent: str) -> str:
            parts = text.split("\n\n")
            return "\n\n".join(part if part.startswith(" ") else fill(part, width, indent) for part in parts)

        formatter._fill_text = filled
        return formatter

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, with the options that there are or the nearest of them, and end with exit code 2."""
        message = message.strip()
        unknown = re.search(r"^(?:Option|unrecognized arguments:) *'?([\w.-]+)", message, re.IGNORECASE)
        within = re.search(r"^Subcommand '(\w+)' does not accept option '([\w.]+)", message)
        if unknown and "xpected one of" not in message:
            message += f"\n{_expected(unknown[1], self)}"
        if within:
            parsers = next(action.choices for action in self._actions if isinstance(action.choices, dict))
            message += f"\n{_expected(within[2], parsers[within[1]])}"
        if not self.exit_on_error:  # a parser within another, which goes on to say it
            super().error(message, ex)
        message = "\n".join(line for line in message.splitlines() if not _INSIDE.search(line))
        program = self.prog.replace(" [options]", "")
        print(f"{program}: error: {message}\nAll options: {program} --help", file=sys.stderr)
        sys.exit(2)


def _expected(word: str, parser: LightningArgumentParser) -> str:
    """What a parser has, where it is little, or the nearest to ``word``."""
    names = {name[2:] for name in parser._option_string_actions if re.fullmatch(r"--(?!print_|help)[\w.]+", name)}
    options = sorted(name for name in names if not name.endswith(".help"))
    if len(options) <= _MANY:
        return f"Expected one of {', '.join(options)}."
    near = difflib.get_close_matches(word.lstrip("-"), options, n=3)
    return f"The nearest are {', '.join(near)}." if near else "No option is called anything like it."
