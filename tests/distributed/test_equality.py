"""Two processes train as one does on the same global batches; what is held in each falls to its share."""

import pytest
import torch

from tests.support.equality import NETWORKS, run
from tests.support.processes import run as in_processes

STEPS = 8  # two epochs, or four where gradients are accumulated
TASKS = ("MLP", "CNN", "LSTM", "Parts")
CLIPPED = {"gradient_clip_val": 0.05}
CASES = {
    **{name: {"name": name} for name in NETWORKS},
    "CNN, all rows": {"name": "CNN", "rows": "all"},
    "CNN, few rows": {"name": "CNN", "rows": 30},
    "LSTM, few rows": {"name": "LSTM", "rows": 20},  # of 4 of 21 samples
    "Steps, few rows": {"name": "Steps", "rows": 20},
    "Loop, few rows": {"name": "Loop", "rows": 20},
    "Attention, few rows": {"name": "Attention", "rows": 20},  # all 22 of the queries, 20 of 66 of the others
    "WideAttention, few rows": {"name": "WideAttention", "rows": 20},
    "Projected, few rows": {"name": "Projected", "rows": 20},
    "LSTM, one sample's rows": {"name": "LSTM", "rows": 6},
    "MLP, Adam": {"name": "MLP", "optimizer": "Adam"},
    **{f"{name}, TargetAdam": {"name": name, "optimizer": "TargetAdam"} for name in (*TASKS, "Empty")},
    "MLP, TargetAdam, replicated": {"name": "MLP", "optimizer": "TargetAdam", "shard": False},
    **{f"{name}, adaptive": {"name": name, "optimizer": "adaptive"} for name in ("MLP", "LSTM", "Empty")},
    "MLP, clipped by value": {"name": "MLP", **CLIPPED, "gradient_clip_algorithm": "value"},
    **{f"{name}, accumulated and clipped": {"name": name, "accumulate": 2, **CLIPPED} for name in TASKS},
    **{f"{name}, replicated": {"name": name, "shard": False, "accumulate": 2, **CLIPPED} for name in TASKS},
    **{f"{name}, float32": {"name": name, "dtype": "float32"} for name in TASKS},
}


def runs(processes):
    torch.set_num_threads(1)
    return {case: run(processes=processes, steps=STEPS, **options) for case, options in CASES.items()}


@pytest.fixture(scope="module")
def results():
    both = in_processes(runs, 2, ranks=2)
    return runs(2), both


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(results, case):
    one, both = results[0][case], [rank[case] for rank in results[1]]
    bound = 1e-6 if "float32" in case else 1e-10
    assert one["steps"] == both[0]["steps"] == STEPS
    for kind in ("weights", "targets"):
        expected, *found = (torch.cat([t.flatten() for t in fit[kind].values()]) for fit in (one, *both))
        for values in found:
            assert float((values - expected).norm()) < bound * float(expected.norm())
    assert all(rank["same"] for rank in both)
    held = [rank["held"] for rank in both]
    assert sum(held) == (one["held"] if "replicated" not in case else 2 * one["held"])
    if case.startswith("Empty"):
        assert held[1] == 0
