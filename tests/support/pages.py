"""The Python code of a documentation page, to be run as its reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, section: str | None = None) -> list[str]:
    """The Python blocks of a page, or of the section of that title, in order."""
    text = (DOCS / page).read_text()
    if section is not None:
        text = re.split(rf"^## {re.escape(section)}\n", text, flags=re.MULTILINE)[1]
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(*code: str) -> dict[str, object]:
    """Run blocks one after the other in one namespace, and return it."""
    names: dict[str, object] = {"__name__": "page"}
    for block in code:
        exec(compile(block, "<page>", "exec"), names)
    return names
