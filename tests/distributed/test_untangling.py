"""Two processes untangle when one does, and train as it does in between."""

import pytest
import torch

from tests.support.equality import run
from tests.support.processes import run as in_processes


@pytest.mark.parametrize("untangle", [3, "auto"])
@pytest.mark.parametrize("name", ["MLP", "Wide", "CNN", "Steps"])
def test_two_processes_train_as_one(name, untangle):
    expected = run(name, 2, untangle=untangle)
    for found in in_processes(run, name, 2, ranks=2, untangle=untangle):
        assert found["same"]
        for key in ("weights", "targets"):
            for part, value in expected[key].items():
                assert torch.allclose(found[key][part], value, rtol=1e-6, atol=1e-8), part
