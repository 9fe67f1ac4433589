"""The parser of the command line, whose errors are short and say what there is."""

from __future__ import annotations

import re
import sys
import warnings
from argparse import Action, _SubParsersAction
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from ts_lightning.cli import causes, helptext, meant, values
from ts_lightning.errors import first_line, meant_in
from ts_lightning.report.run import CONFIG

_MANY = 20
#: lines of jsonargparse's errors that speak of its own inside
_INSIDE = re.compile(r"Expected a <class 'NoneType'>|^ *Given value type:|NestedArg\(")
#: what jsonargparse says, and with which parts of it that a user needs
_UNKNOWN = re.compile(r"^(?:Option|unrecognized arguments:) *'?([\w.-]+)", re.IGNORECASE)
_UNKNOWN_WITHIN = re.compile(r"^Subcommand '(\w+)' does not accept option '([\w.]+)")
#: a word without dashes, as the path of a file
_BARE = re.compile(r"^unrecognized arguments: ([^\s-]\S*)")
_NO_FILE = re.compile(r"""^Parser key "config": (?:File does not exist|Path is not a file): '(.+)'""")
_MISSING = re.compile(r"^the following arguments are required: (.+)")
#: the content of a config file follows it, which is empty
_EMPTY_FILE = re.compile(r"^(?:Parser key \"config\": )?Unexpected config:\s*$")
_CLASS = re.compile(r"""^Parser key "([\w.+]+)":(?:.|\n)*Given value: *(?:\{'class_path': ')?([\w.]+)""")
_NO_CLASS = re.compile(
    r"""^Parser key "([\w.+]+)":(?:.|\n)*?<class '([\w.]+)'>(?:.|\n)*?"""
    r"""(?:Problem with given class_path '[\w.]+':\s+(?:module '.*' has no attribute|No module named)"""
    r"""|Expected a dot import path string|Import path does not correspond)"""
    r"""(?:.|\n)*Given value: *\[?(?:\{'class_path': '|Namespace\(class_path=')?([\w.]+)"""
)
#: which of several classes it is, in a list
_THIS_CLASS = re.compile(r"(?:Problem with given class_path '|Expected a dot import path string: )([\w.]+)")


#: what jsonargparse writes in the place of a value that it cannot write, ahead of a name or a representation
_UNWRITTEN = "Unable to serialize instance "
#: begins what is said of a config file, and is not said
_BROKEN = "broken config: "
#: how jsonargparse begins what it says of a config that holds no settings by their names
_OF_YAML = ("Problems parsing config:", "Unexpected config:")
#: the name of :class:`_Dumper` among the formats that jsonargparse writes
_FORMAT = "yaml_of_ts_lightning"
_typed: ContextVar[str | None] = ContextVar("typed", default=None)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes a choice by its value, as Lightning's Timer has one whose option is a text."""


_Dumper.add_multi_representer(Enum, lambda dumper, one: dumper.represent_data(one.value))


@contextmanager
def typed(program: str) -> Iterator[None]:
    """Have errors in the block begin with this program, which takes the options of another one."""
    before = _typed.set(program)
    try:
        yield
    finally:
        _typed.reset(before)


class Parser(LightningArgumentParser):
    """jsonargparse's parser, as Lightning has it, with short errors and no abbreviations of options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self._command: str | None = None  # that the arguments begin with, in the parser of all commands
        self._file: tuple[str, str] | None = None  # the config that is read: its path and its content

    def _get_formatter(self, *args: Any, **options: Any) -> Any:
        """jsonargparse's, but for indented paragraphs of a description, which stay, and the paths of classes."""
        formatter: Any = super()._get_formatter(*args, **options)
        # no local functions: from Python 3.14 on the parser keeps the formatter, and spawned processes get the parser
        formatter._fill_text = partial(_filled, formatter._fill_text)
        formatter._get_help_string = partial(_named, formatter._get_help_string)
        return formatter

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """jsonargparse's; errors of a command's settings name the command."""
        words = sys.argv[1:] if args is None else args
        self._command = next((word for word in words if word in self.subparsers()), None)
        return super().parse_args(args, *rest, **options)

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Any:
        """jsonargparse's; the file that cannot be read is named."""
        try:
            return super().parse_path(path, *args, **options)
        except UnicodeDecodeError as error:
            self.error(
                f"{_BROKEN}--config {path}: found a byte that is not UTF-8. Expected a YAML with settings.", error
            )

    def dump(self, cfg: Any, **options: Any) -> str:
        """jsonargparse's; a device or a function is written by its name, and a default that has none is left out."""
        from jsonargparse import set_dumper  # of an extra

        set_dumper(_FORMAT, lambda data: yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"(.|\\n)*{_UNWRITTEN}")
            given = {} if options.get("with_comments") else {"format": _FORMAT}
            text: str = super().dump(cfg, **given | options)
        if _UNWRITTEN.split()[0] not in text:  # the first word alone, since a long line is broken between words
            return text
        found = yaml.safe_load(text)
        written = _written(found)
        return text if written == found else yaml.safe_dump(written, sort_keys=False)

    def parse_string(self, content: str, path: Any = "", *args: Any, **options: Any) -> Any:
        """jsonargparse's; what is wrong with a file's YAML is said with the file's name and line."""
        before, self._file = self._file, (str(path), content) if path else None
        try:
            return super().parse_string(content, path, *args, **options)
        finally:
            self._file = before

    def parse_object(self, *args: Any, **options: Any) -> Any:
        """jsonargparse's; hyperparameters of a checkpoint that names no class are those of the class in use."""
        if len(args) == 2:  # Lightning's call: the checkpoint's, and the settings that they are to replace
            given, settings = args
            command = settings.get("subcommand")
            arguments = given.get(command, {}).get("model", {})
            used = settings[command].get("model") if arguments else None
            if used is not None and "class_path" in used and "class_path" not in arguments:
                model = {"class_path": used["class_path"], "dict_kwargs": arguments}
                args = ({command: {"model": model}}, settings)
        return super().parse_object(*args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, with the options that there are or the nearest of them, and end with exit code 2."""
        message = message.strip()
        if self._file and message.startswith(_OF_YAML) and (broken := _broken(self._file[1])):
            message = f"{_BROKEN}--config {self._file[0]}{broken}"
        if bare := _BARE.search(message):
            message = f"found {bare[1]!r}, which is no option. {meant.bare(bare[1])}"
        elif (unknown := _UNKNOWN.search(message)) and "xpected one of" not in message:
            message += f"\n{self._expected(unknown[1])}"
        if within := _UNKNOWN_WITHIN.search(message):
            message += f"\n{self.subparsers()[within[1]]._expected(within[2])}"
        if not self.exit_on_error:  # a parser within another, which goes on to say it
            super().error(message, ex)
        missing = _MISSING.search(message)
        command = within[1] if within else self._command if missing is None else None
        program = self.prog.replace(" [options]", "") + (f" {command}" if command else "")
        if message.startswith(_BROKEN):
            message = message.removeprefix(_BROKEN)
        elif missing:
            program, message = self._missing(program, missing[1])
        elif file := _NO_FILE.search(message):
            config = Path(file[1])
            found = f"a folder.{meant_in(config, CONFIG)}" if config.is_dir() else "no such file."
            message = f"--config {config}: found {found} Expected a YAML with settings."
        elif _EMPTY_FILE.search(message):
            message = "--config: found an empty file. Expected a YAML with settings."
        elif (given := _NO_CLASS.search(message)) and given[1] != "target_space" and not values.within(message):
            this = _THIS_CLASS.search(message)
            path = this[1] if this else given[3]
            message = f"--{given[1]} {path}: {meant.classes(path, given[2])}"
        elif (given := _CLASS.search(message)) and (failed := causes.of_an_import(ex)):
            message = f"--{given[1]} {given[2]}: {failed}"
        else:
            message = values.explained(message) or _shortened(message)
            message += f" All options: {program} --help"
        print(f"{_typed.get() or program}: error: {message}", file=sys.stderr)
        sys.exit(2)

    def _missing(self, program: str, listed: str) -> tuple[str, str]:
        """The command and what it lacks: of the options of all its parts only those that a user can give."""
        command, *_ = listed.partition(".")
        names = [name.strip().removeprefix(f"{command}.") for name in listed.split(",")]
        given = self.subparsers().get(command, self)._option_string_actions
        program = f"{program} {command}" if command in self.subparsers() else program
        options = " and ".join(f"--{name}" if f"--{name}" in given else name for name in names)
        what = "the module to use: --model package.module.Class" if names == ["model"] else f"a value for {options}"
        return (
            program,
            f"{options} {'is' if len(names) == 1 else 'are'} missing. Expected {what}. All options: {program} --help",
        )

    def subparsers(self) -> Mapping[str, Any]:
        """The parsers of the commands, by their names; none where there are no commands."""
        parsers: Mapping[str, Any] = getattr(self._commands(), "choices", {})
        return parsers

    def list_commands(self, commands: Mapping[str, str]) -> None:
        """Have the help list these commands, by name and with what each does, and no others."""
        listed = self._commands()
        listed._choices_actions = [listed._ChoicesPseudoAction(name, (), does) for name, does in commands.items()]
        listed.metavar = "COMMAND"

    def _commands(self) -> Any:
        return next((action for action in self._actions if isinstance(action, _SubParsersAction)), None)

    def _expected(self, word: str) -> str:
        """All options, where they are few, or those that ``word`` may mean."""
        names = {name[2:] for name in self._option_string_actions if re.fullmatch(r"--(?!print_|help)[\w.]+", name)}
        known = sorted(name for name in names if not name.endswith(".help"))
        if len(known) <= _MANY:
            return f"Expected one of {', '.join(known)}."
        printing = [name for name in ("help", "print_config") if f"--{name}" in self._option_string_actions]
        near = meant.options(word, [*known, *printing])
        if near:
            return f"Did you mean {' or '.join(f'--{name}' for name in near)}?"
        none, word = "No option is called anything like it.", word.lstrip("-")
        group, dot, _ = word.partition(".")
        if dot:
            same = [f"--{name}" for name in known if name.startswith(f"{group}.")]
            return f"Expected one of {', '.join(same)}." if 0 < len(same) <= _MANY else none
        if "trainer" not in {name.partition(".")[0] for name in known}:  # of a class's arguments
            return none
        return f"{none} An argument of the module is --model.{word}, of the data --data.{word}."


def _filled(fill: Callable[[str, int, str], str], text: str, width: int, indent: str) -> str:
    """Lines of a description, whose indented paragraphs stay as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else fill(part, width, indent) for part in parts)


def _named(said: Callable[[Action], str], action: Action) -> str:
    """The help of an option, with names in the place of the paths of classes."""
    return helptext.names(said(action))


def _written(value: Any) -> Any:
    """Settings without what stands for values that have no name, which only defaults can be."""
    if isinstance(value, dict):
        return {key: _written(inner) for key, inner in value.items() if not _nameless(inner)}
    if isinstance(value, list):
        return [_written(inner) for inner in value]
    return value.removeprefix(_UNWRITTEN) if isinstance(value, str) else value


def _nameless(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_nameless, value))
    return isinstance(value, str) and value.startswith(f"{_UNWRITTEN}<")


def _broken(content: str) -> str | None:
    """What is wrong with a config that is no YAML, or none of settings by their names; ``None`` if it is empty."""
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        return f"{_of_yaml(error)}. Expected a YAML with settings."
    if found is None:
        return None
    kind = "a list" if isinstance(found, list) else "a single value"
    return f": found {kind}. Expected a YAML with settings by their names."


def _of_yaml(error: yaml.YAMLError) -> str:
    """Where a YAML is broken, and how."""
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f", line {mark.line + 1}"
    return f"{place}: {getattr(error, 'problem', None) or first_line(error)}"


def _shortened(message: str) -> str:
    """A message of jsonargparse without what it says of its inside; in one line, unless it lists what it has tried."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not _INSIDE.search(line)]
    if any(line.startswith("Subtypes:") for line in lines):
        return "\n".join(line for line in message.splitlines() if not _INSIDE.search(line))
    return " ".join(line if line.endswith((".", "?", ":", "!")) else f"{line}." for line in lines)
