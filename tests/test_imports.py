"""Imports go down the floors of docs/architecture.md, and the engine needs no Lightning."""

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_contracts_in_pyproject_hold(capsys):
    assert lint_imports(str(PYPROJECT), no_cache=True, no_logo=True) == 0, capsys.readouterr().out


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
