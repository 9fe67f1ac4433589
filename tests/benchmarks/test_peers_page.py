"""The page docs/evidence.md: made of the lines of the results' file alone."""

import pytest

from benchmarks.peers import page, tables
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Reported, summary
from benchmarks.peers.workload import measured_at
from tests.benchmarks.test_peers import FIXED, SMALL


def _line(contender, seed, setting, validation, test=()):
    known = {"workload": "small", "steps": 40, "contender": contender.name, "setting": setting, "seed": seed}
    at = measured_at(40)[-len(validation) :]
    more = {"ms": 1.0, "failed": None, "torch": "2", "threads": 1}
    return {**known, "at": at, "validation": list(validation), "test": list(test), **more}


def test_the_page_is_made_of_the_lines_alone(tmp_path):
    results = Results(tmp_path / "peers.jsonl")
    for place, contender in enumerate(CONTENDERS.values()):
        if contender.tuned:
            results.add(_line(contender, 0, contender.first, [0.5, 0.6]))
        for seed in (1, 2):
            top = 0.7 + 0.01 * place + 0.002 * seed
            results.add(_line(contender, seed, contender.first, [0.5, 0.7], [0.5, top]))
    settings = {c.name: c.first for c in CONTENDERS.values()}
    ms = dict.fromkeys(CONTENDERS, 2.0)
    results.add({"timed": "small", "ms": ms, "settings": settings, "torch": "2", "threads": 1})
    written = tmp_path / "evidence.md"
    marks = ("made", "overview", "goals", "ablation", "groups")
    written.write_text("".join(f"<!-- table: {mark} -->\n<!-- end -->\n" for mark in marks))
    page.write(Results(results.file), [SMALL], 1, written)
    text = written.read_text()
    assert "1 workloads, 1 trials and 2 seeds" in text
    assert f"**{70.3 + list(CONTENDERS).index('foof'):.1f} ± 0.1** (FOOF)" in text  # the last of all, and the best
    for picture in ("profile", "ablation", "tests"):
        assert (tmp_path / "evidence" / f"{picture}.png").stat().st_size > 5000
    whole, _ = summary(Results(results.file), [SMALL], list(CONTENDERS.values()), 1)
    one = whole["small"]["target"]
    assert one.seconds_to(0.6) == pytest.approx(2e-3 * one.steps_to(0.6))


def test_levels_are_reached_between_two_measurements():
    lines = [
        {**_line(FIXED, seed, {"lr": 0.1}, v), "at": [10, 20, 40]} for seed, v in ((1, [0.2, 0.4, 0.8]), (2, [0.2] * 3))
    ]
    one = Reported(SMALL, FIXED, {"lr": 0.1}, lines[:1], 3.0)
    assert one.steps_to(0.6) == pytest.approx(30)
    assert one.steps_to(0.1) == 10
    assert one.steps_to(0.9) == float("inf")
    assert Reported(SMALL, FIXED, {"lr": 0.1}, lines, 3.0).steps_to(0.6) == float("inf")


def test_a_metric_without_bounds_is_said_in_a_word():
    assert tables.percent([0.5, 0.7]) == "60.0 ± 14.1"
    assert tables.percent([0.5, -1e20]) == "diverged"


def test_a_setting_is_said_with_the_rate_that_the_optimizer_has():
    assert tables.setting(CONTENDERS["target-sgd"].first) == "0.2, SGD, untangle 1"
    assert tables.setting(CONTENDERS["target-default"].first) == "0.002, TargetAdam, untangle 1"
