"""What jsonargparse says of a value that an option does not take, over many lines, in one."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import first_line

_SPACE = "target_space"
#: options and the types that enclose each other are named outermost first; a complaint follows the last one
_KEY = re.compile(r'Parser key "([\w.+]+)":')
_COMPLAINT = re.compile(r"Expected a |is not accepted|unrecognized arguments|Unable to load|Not a valid subclass")
_UNION = "Does not validate against any of the Union subtypes"
_OF_NAMES = ("is not accepted", "unrecognized arguments")
_UNKNOWN = re.compile(
    r"(?:Option '|unrecognized arguments: --)([\w.]+).*\n\s*(Expected one of .+|Did you mean .+|No option .+)"
)
_REQUIRED = re.compile(r"Problem with given class_path '([\w.]+)':\s+the following arguments are required: (.+)")
#: an argument of a class, where jsonargparse has tried the base of all such classes
_ARGUMENT = re.compile(r"Given value: NestedArg\(key='([\w.]+)'")
_TRIED = re.compile(r"class_path '[\w.]*?(\w+)'|(Logger) is abstract")
#: arguments in a file, of which jsonargparse has tried the base, too
_UNNAMED = re.compile(
    r"class_path '[\w.]*?(\w+)':\s+Option '([\w.]+)' is not accepted[^}]+Given value: \{(?!'class_path')"
)
_BASES = ("LightningModule", "LightningDataModule", "Optimizer", "LRScheduler", "Callback", "Logger")
_BARE = re.compile(r"^\s*Unable to load config '(.+)'")
_GIVEN = re.compile(r"Given value: (?!NestedArg\()(.+)")
_GOT = re.compile(r"Got value: (.+)")
_TYPE = re.compile(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.+?\]|list\[|dict\[)")
_WORDS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "Sequence": "a list",
    "dict": "a mapping",
    "list": "a list",
}


def explained(message: str) -> str | None:
    """What is wrong, in a line that names option, value and what is expected; ``None`` if the message is another one.

    A setting of target space is explained in the words of :class:`TargetSpaceConfig`.

    Args:
        message: jsonargparse's.
    """
    complaint = _COMPLAINT.search(message)
    if complaint is None or not message.startswith("Parser key"):
        return None
    tried = _TRIED.search(message)
    if (argument := _ARGUMENT.search(message)) and tried and (tried[1] or tried[2]) in _BASES:
        option = _KEY.findall(message)[0]
        return f"--{option}.{argument[1]}: found no --{option} ahead of it. Expected its class first."
    if (unnamed := _UNNAMED.search(message)) and unnamed[1] in _BASES:
        option = _KEY.findall(message)[0]
        return (
            f"--{option}.{unnamed[2]}: found no class of --{option} beside it. Expected its class_path and init_args."
        )
    lacking = _REQUIRED.search(message, 0, complaint.start())  # behind the complaint it is of another type
    if lacking:
        path = ".".join(key[1] for key in _KEY.finditer(message, 0, lacking.start()))
        names = [f"--{path}.{name.strip()}" for name in lacking[2].split(",")]
        kind = lacking[1].rpartition(".")[2]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing: {kind} has no default."
    keys = list(_KEY.finditer(message, 0, complaint.start()))
    path = ".".join(key[1] for key in keys)
    rest = message[keys[-1].end() :]
    unknown = _UNKNOWN.search(rest)
    if unknown and complaint[0] in _OF_NAMES:  # else it is unknown to another class, which was tried next
        return f"--{path}.{unknown[1]}: there is no such option. {unknown[2]}"
    if bare := _BARE.search(rest):
        return f"--{path} {bare[1]}: expected settings by their names, as --{path}.NAME VALUE."
    given = _GIVEN.search(rest) if _UNION in rest.partition("Given value")[0] else _GOT.search(rest)
    value = given[1] if given else ""
    if path.partition(".")[0] == _SPACE:
        return _of_target_space(path.split(".")[1:], _read(value))
    expected = _expected(rest[: given.start()]) if given else ""
    return f"--{path} {value}: expected {expected}." if given and expected else None


def within(message: str) -> bool:
    """Whether jsonargparse complains of an argument of a class that is itself right."""
    complaint = _COMPLAINT.search(message)
    return complaint is not None and len(_KEY.findall(message, 0, complaint.start())) > 1


def _of_target_space(names: list[str], value: Any) -> str | None:
    if not names:
        return (
            f"--{_SPACE}: found {value!r}; expected settings, as --{_SPACE}.ridge 1, or {{}} for the defaults, or null."
        )
    settings = value
    for name in reversed(names):
        settings = {name: settings}
    try:
        TargetSpaceConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        return f"--{_SPACE}: {first_line(error)}"
    return None


def _read(value: str) -> Any:
    """The value as YAML means it, whose text jsonargparse has made of Python's."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _expected(text: str) -> str:
    """The types in words: ``a whole number, 'auto' or null``."""
    words: list[str] = []
    for kind in _TYPE.findall(text):
        if kind.startswith("typing.Literal"):
            words += [choice.strip() for choice in kind[len("typing.Literal[") : -1].split(",")]
        else:
            name = re.sub(r"<class '([\w.]+)'>", r"\1", kind).partition("[")[0].rpartition(".")[2]
            words.append(_WORDS.get(name, name))
    words = list(dict.fromkeys(word for word in words if word != "NoneType"))
    if words and "<class 'NoneType'>" in text:
        words.append("null")
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
