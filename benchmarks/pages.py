"""What benchmarks share that write into the documentation: options, and tables in Markdown between a page's markers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path


def options(description: str | None, *, draws: bool = False) -> argparse.ArgumentParser:
    """The options of a benchmark that reads data sets and keeps its results in a file, and maybe draws them itself."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of data sets (default data)")
    if draws:
        parser.add_argument("--draw", action="store_true", help="only draw what is in the file")
    return parser


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(page: Path, texts: Mapping[str, str]) -> None:
    """Write each text between ``<!-- table: name -->`` and the next ``<!-- end -->`` of a page."""
    whole = page.read_text()
    for name, text in texts.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(whole):
            raise SystemExit(
                f"{page}: no place for the table '{name}'; expected <!-- table: {name} --> ... <!-- end -->."
            )
        whole = pattern.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", whole)  # type: ignore[misc]
    page.write_text(whole)
