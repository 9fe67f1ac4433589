"""The tables of docs/models.md: what of each model is solved by default, and what is left.

    python -m benchmarks.zoo [NAME ...]

with the extra ``zoo``, which has the libraries; models of a library that is not installed are left out. Nothing is
downloaded. The names are of libraries (own, torchvision, timm, transformers, peft, pyg) or models. Ends with 1 if a
model raised, has a loss that is not finite, or gives another output after a start from its weights. Models of which
nothing can be solved are refused, which is no failure.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module

from benchmarks.zoo.check import Found, check
from benchmarks.zoo.example import Example
from ts_lightning.errors import TargetSpaceError, first_line

#: module: the library
LIBRARIES = {
    "own_language": "own",
    "own_others": "own",
    "of_torchvision": "torchvision",
    "of_timm": "timm",
    "of_transformers": "transformers",
    "of_peft": "peft",
    "of_pyg": "pyg",
}
TITLES = {
    "own": "Small models in the style of well-known ones",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "peft": "PEFT, the base frozen",
    "pyg": "PyTorch Geometric",
}
CHANGE = 1e-5  # of the outputs, relative


def models() -> Iterator[tuple[str, str, Callable[[], Example]]]:
    """Library, name and maker of every model whose library is there."""
    for module, library in LIBRARIES.items():
        try:
            found = import_module(f"benchmarks.zoo.{module}").MODELS
        except ImportError as error:
            print(f"left out: {library} ({error})", file=sys.stderr)
            continue
        yield from ((library, name, make) for name, make in found.items())


def row(name: str, found: Found) -> str:
    left = "; ".join(f"{kind}: {reason}" for kind, reason in found.left)
    tables = f"{100 * found.tables:.0f} %" if found.tables else ""
    return f"| {name} | {found.layers} | {found.reused or ''} | {100 * found.share:.0f} % | {tables} | {left} |"


def main(names: list[str]) -> int:
    before, failed, refused, seen = "", [], [], 0
    for library, name, make in models():
        if names and library not in names and name not in names:
            continue
        if library != before:
            before = library
            print(f"\n### {TITLES[library]}\n\n| model | layers solved | used several times | solved | tables | left |")
            print("|---|---|---|---|---|---|")
        try:
            found = check(make)
        except TargetSpaceError as error:
            (refused if str(error).startswith("No layer to solve") else failed).append(name)
            print(f"| {name} | 0 |  | 0 % |  | {first_line(error).partition(':')[0]} |", flush=True)
            continue
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        seen += 1
        print(row(name, found), flush=True)
        if not found.good(CHANGE):
            print(f"{name}: losses {found.losses}, changes {found.changes}", file=sys.stderr)
            failed.append(name)
    print(
        f"{seen} models; refused: {', '.join(refused) or 'none'}; failed: {', '.join(failed) or 'none'}",
        file=sys.stderr,
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
