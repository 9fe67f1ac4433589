"""What several processes send is what the documentation's formulas say, message by message."""

from functools import partial

import pytest
import torch

from benchmarks.scaling import measure
from benchmarks.scaling_model import Machine, dense, layer_cost, triangle
from tests.support.processes import METHOD


@pytest.mark.parametrize("d", [1, 64, 65, 513])
def test_the_triangle_is_that_of_the_blocks(d):
    blocks = [(min(start + 64, d) - start, min(start + 64, d)) for start in range(0, d, 64)]
    assert triangle(d) == sum(rows * columns for rows, columns in blocks)


def test_two_processes_send_what_the_formulas_say(monkeypatch):
    start = partial(torch.multiprocessing.start_processes, start_method=METHOD)  # where torch is imported already
    monkeypatch.setattr("torch.multiprocessing.spawn", start)
    # sampled rows, batch norm and other parameters; dual layers within the network and at its end
    runs = measure(["norm", "wide"], 2, 1)
    assert [(run["network"], run["shard"]) for run in runs] == [
        ("norm", True),
        ("norm", False),
        ("wide", True),
        ("wide", False),
    ]
    for run in runs:
        for what in ("solve", "pullback"):
            assert run[what]["same"], (run["network"], run["shard"], what, run[what])


def test_without_messages_shared_rows_never_cost_more():
    free = Machine(within=1e12, between=1e12, latency=0, far=0)
    for width in (16, 512, 4096):
        costs = [layer_cost(dense(640, width, ranks), ranks, free).total for ranks in (1, 8, 64)]
        assert costs == sorted(costs, reverse=True)
