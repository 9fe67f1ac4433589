"""AdamW's setting is that of the best whole trial; runs that were stopped do not count."""

import pytest

from benchmarks import permuted
from benchmarks.peers.results import Results


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(permuted, "RESULTS", Results(tmp_path / "permuted.jsonl"))
    monkeypatch.setattr(permuted, "SETTINGS", [{"lr": 0.1}, {"lr": 0.2}])

    def write(*lines):
        for lr, steps, step, validation in lines:
            line = {"contender": "adamw", "setting": {"lr": lr}, "steps": steps, "step": step}
            permuted.RESULTS.add({**line, "validation": validation})

    return write


def test_the_end_of_the_trial_decides(results):
    trial, budget = permuted.TRIAL, permuted.WORKLOAD.steps
    results((0.1, trial, 50, 0.9), (0.1, trial, trial, 0.4), (0.2, trial, 50, 0.1), (0.2, trial, trial, 0.5))
    results((0.1, budget, budget, 0.99))
    assert permuted.best() == {"lr": 0.2}


def test_a_run_that_was_stopped_is_missing(results):
    results((0.1, permuted.TRIAL, 50, 0.9))
    assert permuted.run("adamw", {"lr": 0.1}, permuted.TRIAL) == []
