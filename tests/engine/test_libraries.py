"""Whose a Python module is: what a user's own modules hold is put back by a run, what libraries hold is left alone."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import ts_lightning
from ts_lightning.engine.running.libraries import of_user

PACKAGE = Path(ts_lightning.__file__).parent


@pytest.mark.parametrize("name", ["__main__", "tests.engine.test_libraries"])
def test_own_modules(name):
    assert of_user(name)


@pytest.mark.parametrize("name", ["torch", "json", "json.decoder", "sys", "ts_lightning", "ts_lightning.engine.space"])
def test_modules_of_libraries(name):
    assert not of_user(name)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/home/user/.local/lib/python3.12/site-packages/library/net.py", False),  # pip install --user
        ("/usr/lib/python3/dist-packages/library/net.py", False),  # a Linux distribution's own
        ("/home/user/library/net.py", True),  # an editable install
        (f"{PACKAGE}_models/net.py", True),  # beside the package, with its name in front
    ],
)
def test_where_a_module_stands(monkeypatch, file, expected):
    module = ModuleType(f"standing_{abs(hash(file))}")
    module.__file__ = file
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert of_user(module.__name__) is expected
