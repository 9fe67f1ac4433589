"""The examples in docstrings run, and every public name has one, and its place in the reference."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import ts_lightning
import ts_lightning.data
import ts_lightning.pictures

PACKAGE = Path(ts_lightning.__file__).parent
FINDER = doctest.DocTestFinder(exclude_empty=True)
MODULES = [
    ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]
EXAMPLES = [
    pytest.param(test, id=test.name.removeprefix("ts_lightning."))
    for module in MODULES
    for test in FINDER.find(importlib.import_module(module))
    if test.examples
]
PUBLIC = {
    f"{value.__module__}.{value.__qualname__}"
    for module in (ts_lightning, ts_lightning.pictures)
    for value in (getattr(module, name) for name in module.__all__)
    if not (isinstance(value, type) and issubclass(value, Exception))
}


@pytest.mark.parametrize("test", EXAMPLES)
def test_an_example_gives_what_it_shows(test, own_registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)


def test_every_public_name_has_an_example():
    assert {param.values[0].name for param in EXAMPLES} >= PUBLIC


@pytest.mark.parametrize("module", [ts_lightning, ts_lightning.data, ts_lightning.pictures])
def test_every_public_name_stands_in_the_reference(module):
    page = (PACKAGE.parent / "docs" / "reference.md").read_text()
    listed = set(re.findall(rf"^::: {re.escape(module.__name__)}\.(\w+)$", page, re.MULTILINE))
    assert listed >= set(module.__all__)
