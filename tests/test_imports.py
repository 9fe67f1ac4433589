"""Imports go down the floors of docs/architecture.md, without a circle, and the engine needs no Lightning."""

import ast
import logging
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def circle(imports):
    """The files of a circle, from a file over those it imports back to itself; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.fixture
def loggers_stay():
    """The linter turns off all loggers that there are, and later tests of the process would find nothing logged."""
    disabled = {
        logger: logger.disabled for logger in logging.Logger.manager.loggerDict.values() if hasattr(logger, "disabled")
    }
    yield
    for logger, before in disabled.items():
        logger.disabled = before


@pytest.mark.usefixtures("loggers_stay")
def test_the_contracts_in_pyproject_hold(capsys):
    assert lint_imports(str(PYPROJECT), no_cache=True, no_logo=True) == 0, capsys.readouterr().out


def test_no_circle_between_files():
    # packages count as files here, which the linter's own contract leaves out
    graph = grimp.build_graph("ts_lightning", cache_dir=None, exclude_type_checking_imports=False)
    assert len(graph.modules) > 80
    assert circle({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, {"b", "c"}),
    ],
)
def test_a_circle_would_be_found(imports, found):
    assert set(circle(imports)) == set(found)


ALONE = """
import sys
import ts_lightning
ts_lightning.TargetSpace
print(*sorted({name.split(".")[0] for name in sys.modules} & FOREIGN))
for name in FOREIGN:
    sys.modules[name] = None
import torch
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
space = ts_lightning.TargetSpace(net, torch.randn(20, 3))
optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
net(torch.randn(5, 3)).square().mean().backward()
space.pullback()
optimizer.step()
space.solve()
"""


def test_target_space_alone_imports_no_lightning():
    foreign = {"lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torchmetrics"}
    run = subprocess.run(
        [sys.executable, "-c", ALONE.replace("FOREIGN", repr(foreign))], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


#: what only extras bring along
OF_EXTRAS = {"jsonargparse", "matplotlib", "sklearn", "torchvision", "wandb"}


def imported_with(source):
    """The packages that a file imports while it is imported itself."""
    found = set()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import):
            found |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None:
            found.add(statement.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", ["cli", "report", "callbacks", "lightning", "engine", "layers"])
def test_a_file_needs_no_extra_before_it_is_used(folder):
    """The command line then says which extra to install; a file that imported one of its packages ended in an error."""
    files = sorted((PYPROJECT.parent / "ts_lightning" / folder).rglob("*.py"))
    assert len(files) > 5
    assert {file.name: found for file in files if (found := imported_with(file.read_text()) & OF_EXTRAS)} == {}
