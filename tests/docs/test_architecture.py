"""The pages for those who carry on name files that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ts_lightning"
FLOORS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}


def files(text):
    """The files and folders of the package that a page names, as ``engine/space.py`` and ``layers/conv/``."""
    return set(re.findall(rf"`((?:{'|'.join(FLOORS)})/[\w/]*(?:\.py)?)`", text))


def test_files_named_in_the_page_exist():
    named = files((ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (PACKAGE / name).exists()] == []


def test_files_named_in_the_drawing_exist():
    text = (ROOT / "docs" / "architecture.svg").read_text()
    named = [name for line in re.findall(r'class="file"[^>]*>([^<]+)<', text) for name in line.split()]
    known = {path.name for path in PACKAGE.rglob("*")}
    assert len(named) > 15
    assert [name for name in named if name.rstrip("/") not in known] == []


def test_every_floor_is_in_the_page():
    text = (ROOT / "docs" / "architecture.md").read_text().split("## A fit begins")[0]
    assert set(re.findall(r"`(\w+)/`", text)) >= FLOORS


def test_paths_in_contributing_exist():
    named = re.findall(r"`((?:tests|benchmarks|ts_lightning)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
