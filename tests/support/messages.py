"""What the package says to its users: the texts of its errors, warnings and remarks, read from the source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ts_lightning"
#: in the place of what a message fills in
FILLED = "…"
RAISED = {"TargetSpaceError", "NothingToSolve", "Unreached", "EndlessLoop", "SettingError", "DataError"}
ERRORS = RAISED | {"ValueError", "TypeError"}
REMARKS = {"warn", "rank_zero_warn", "rank_zero_info"}


def messages(*paths: Path, kinds=ERRORS | REMARKS) -> Iterator[str]:
    """The texts in these files and folders, with ``…`` for what they fill in."""
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield from (text for kind, text in _said(file) if kind in kinds)


@cache
def _said(file: Path) -> list[tuple[str, str]]:
    """By what each text of a file is said, and the text."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call) and node.args]
    named = [(getattr(call.func, "attr", getattr(call.func, "id", "")), _text(call.args[0])) for call in calls]
    return [(kind, text) for kind, text in named if text is not None]


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else FILLED for part in node.values)
    if isinstance(node, ast.Call):  # of a method of the text
        return _text(node.func.value) if isinstance(node.func, ast.Attribute) else None
    return None
