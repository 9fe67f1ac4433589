"""docs/evidence.md and docs/evidence_settings.md: made of the results' files alone, by one command."""

import re
import shutil
from dataclasses import replace

import pytest

from benchmarks import evidence
from benchmarks.peers import figures, tables
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.protocol import TRIALS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Reported
from benchmarks.peers.workload import measured_at
from benchmarks.peers.workloads import WORKLOADS
from tests.benchmarks.test_peers import FIXED, SMALL

PAGES = ("evidence.md", "evidence_settings.md")
DEEP = replace(SMALL, name="tanh-30")  # which README.md's picture shows
WITHOUT_FILES = ("digits-100-relu", "wine", "diabetes", "breast_cancer", "recall-60", "s3-16", "copying-50")


def _line(contender, seed, setting, validation, test=()):
    known = {"workload": DEEP.name, "steps": 40, "contender": contender.name, "setting": setting, "seed": seed}
    at = measured_at(40)[-len(validation) :]
    more = {"ms": 1.0, "failed": None, "torch": "2", "threads": 1}
    return {**known, "at": at, "validation": list(validation), "test": list(test), **more}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A results' file of one workload, in which each contender ends above the one before."""
    results = Results(tmp_path_factory.mktemp("results") / "peers.jsonl")
    for place, contender in enumerate(CONTENDERS.values()):
        if contender.tuned:
            results.add(_line(contender, 0, contender.first, [0.5, 0.6]))
        for seed in (1, 2):
            top = 0.7 + 0.01 * place + 0.002 * seed
            results.add(_line(contender, seed, contender.first, [0.5, 0.7], [0.5, top]))
    settings = {c.name: c.first for c in CONTENDERS.values()}
    ms = dict.fromkeys(CONTENDERS, 2.0)
    results.add({"timed": DEEP.name, "ms": ms, "settings": settings, "torch": "2", "threads": 1})
    return evidence.measured(Results(results.file), [DEEP], 1)[0]


def _tables(page):
    return dict(re.findall(r"<!-- table: ([\w ]+) -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL))


def test_one_command_makes_both_pages_and_their_figures(whole, tmp_path):
    for name in PAGES:
        text = re.sub(r"(: [\w ]+ -->\n).*?(<!-- end)", r"\1\2", (evidence.DOCS / name).read_text(), flags=re.DOTALL)
        (tmp_path / name).write_text(text)
    evidence.write(tmp_path, whole, ["other"], 1)
    made = {**_tables(tmp_path / PAGES[0]), **_tables(tmp_path / PAGES[1])}
    assert all(made.values())
    assert "1 workloads, at most 1 trials and 2 seeds" in made["made"]
    assert "not on this page: other." in made["made"]
    assert f"**{70.3 + list(CONTENDERS).index('foof'):.1f} ± 0.1** (FOOF)" in made["overview"]  # the last, and the best
    evidence.draw(tmp_path, whole)
    for picture in ("first", *(f"evidence/{name}" for name in ("profile", "ablation", "tests", "images", "surface"))):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000
    assert not list(tmp_path.rglob("*.svg"))


def test_the_pages_hold_what_the_results_say(tmp_path):
    for name in PAGES:
        shutil.copy(evidence.DOCS / name, tmp_path / name)
    evidence.write(tmp_path, *evidence.measured(Results(), list(WORKLOADS.values()), TRIALS), TRIALS)
    for name in PAGES:
        assert (tmp_path / name).read_text() == (evidence.DOCS / name).read_text(), "run python -m benchmarks.evidence"


def test_every_picture_of_the_pages_is_there():
    for name in PAGES:
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", (evidence.DOCS / name).read_text()):
            assert (evidence.DOCS / picture).is_file()


def test_nothing_is_written_without_results(tmp_path):
    with pytest.raises(SystemExit, match=r"no workload was measured whole with 8 trials\. Use run, then time"):
        evidence.measured(Results(tmp_path / "none.jsonl"), [SMALL], TRIALS)


def test_steps_and_seconds_of_a_level_are_in_columns_of_their_own(whole):
    ours, peer = whole[DEEP.name]["target-tuned"], whole[DEEP.name]["adamw"]
    cells = tables.speed(whole).splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["small", "60"]
    assert cells[3] == f"{ours.steps_to(0.6):,.0f}"
    assert cells[4] == f"{peer.steps_to(0.6):,.0f} (AdamW)"
    assert cells[6] == f"{2e-3 * ours.steps_to(0.6):.2f}"


def test_a_peer_that_is_never_there_has_no_name(whole):
    high = replace(DEEP, levels=(0.8, 0.9, 0.99))
    found = {name: replace(one, workload=high) for name, one in whole[DEEP.name].items()}
    assert tables.fastest_peer(found, seconds=False) == tables.fastest_peer(found, seconds=True) == "never"


def _ended(*ends):
    return Reported(SMALL, FIXED, {}, [_line(FIXED, 1, {}, [0.5], [end]) for end in ends], None)


def test_all_that_print_the_best_mean_are_bold():
    ones = [_ended(0.97301), _ended(0.97344), _ended(0.9736), _ended(0.9733, 0.9753)]
    assert tables.emphasised(ones[:2]) == ["**97.3**", "**97.3**"]
    assert tables.emphasised(ones) == ["97.3", "97.3", "**97.4**", "**97.4 ± 0.1**"]
    assert tables.emphasised([_ended(-0.1), _ended(-0.2)]) == ["**-10.0**", "-20.0"]


@pytest.mark.parametrize(
    ("steps", "batch", "samples", "shown"), [(300, 100, 55000, "0.5"), (5500, 100, 55000, "10"), (40, 200, 80, "40")]
)
def test_a_budget_is_said_in_epochs(whole, steps, batch, samples, shown):
    workload = replace(DEEP, steps=steps, batch=batch, samples=samples)
    found = {name: replace(one, workload=workload) for name, one in whole[DEEP.name].items()}
    assert tables.overview({DEEP.name: found}).splitlines()[-1].startswith(f"| small | {shown} | ")


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_the_number_of_training_samples_is_that_of_the_data(name, tmp_path):
    assert WORKLOADS[name].samples == len(WORKLOADS[name].data(tmp_path).train)


def test_levels_are_reached_between_two_measurements():
    lines = [
        {**_line(FIXED, seed, {"lr": 0.1}, v), "at": [10, 20, 40]} for seed, v in ((1, [0.2, 0.4, 0.8]), (2, [0.2] * 3))
    ]
    one = Reported(SMALL, FIXED, {"lr": 0.1}, lines[:1], 3.0)
    assert one.steps_to(0.6) == pytest.approx(30)
    assert one.steps_to(0.1) == 10
    assert one.steps_to(0.9) == float("inf")
    assert Reported(SMALL, FIXED, {"lr": 0.1}, lines, 3.0).steps_to(0.6) == float("inf")


def test_seconds_are_steps_times_the_time_of_a_step(whole):
    one = whole[DEEP.name]["target"]
    assert one.seconds_to(0.6) == pytest.approx(2e-3 * one.steps_to(0.6))


def test_the_metric_after_a_time_is_on_the_line_between_two_measurements():
    line = {**_line(FIXED, 1, {}, [0.5], [0.2, 0.4, 0.8]), "at": [10, 20, 40]}
    one = Reported(SMALL, FIXED, {}, [line], 100.0)
    found = [one.after(seconds) for seconds in (0.5, 1.0, 1.5, 3.0, 9.0)]
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.6, 0.8])


def test_target_space_is_shown_when_the_best_peer_ends(whole):
    """A step takes as long everywhere here, so that this is its own end."""
    end = f"{100 * whole[DEEP.name]['target-default'].mean:.1f}"
    assert tables.speed(whole).splitlines()[-1].strip("| ").split(" | ")[-1].startswith(f"{end}; ")


def test_short_times_have_two_decimals():
    found = [tables.duration(value, seconds=True) for value in (0.031, 2.345, float("inf"), float("nan"))]
    assert found == ["0.03", "2.3", "never", ""]
    assert tables.duration(1234.4, seconds=False) == "1,234"


def test_a_panel_begins_where_a_curve_comes_into_sight():
    assert figures._seen([1, 10, 100], [0, 20, 40], 10) == pytest.approx([10**0.5, 100])
    assert figures._seen([1, 10, 100], [20, 0, 0], 10) == [1, 10]
    assert figures._seen([1, 10], [0, 5], 10) == []


def test_a_metric_without_bounds_is_said_in_a_word():
    assert tables.percent([0.5, 0.7]) == "60.0 ± 14.1"
    assert tables.percent([0.5, -1e20]) == "diverged"


def test_a_setting_is_said_with_the_rate_that_the_optimizer_has():
    assert tables.setting(CONTENDERS["target-sgd"].first) == "0.2, SGD, untangle 1"
    assert tables.setting(CONTENDERS["target-default"].first) == "0.002, TargetAdam, untangle 1"
