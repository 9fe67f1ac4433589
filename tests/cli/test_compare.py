"""``compare``: both spaces with equal seeds and data, side by side; a mistake is found before the first run."""

import json
import os
import re
import signal
import sys
import time
from contextlib import contextmanager

import pytest
import torch
import yaml

import ts_lightning.cli.compare as module
from tests.support.runs import FILES, files, mistake, pictures, program
from ts_lightning.cli.main import main
from ts_lightning.cli.named import NamedMetric
from ts_lightning.recipes import two_spirals

NET = ["--model", "tests.cli.solved.Solved", "--data", "tests.cli.plain.Points", "--trainer.enable_progress_bar=false"]
RUNS = [f"{space}-{seed}" for seed in (3, 4) for space in ("target", "weight")]


@contextmanager
def within_this_process():
    """The processes of a comparison run in this one; gives the commands of those that were to train."""
    trained = []

    def run(main, arguments):
        trained.append(arguments)
        ended = program(main, *arguments, drawn=False)
        print(ended.err, file=sys.stderr)
        return ended.code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "in_a_process", run)
        yield trained


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison over two seeds: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    short = ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"]
    own = ["--seeds", "3", "4", "--metric", "test/accuracy", "--levels", "0.01", "2", "--out", folder]
    with within_this_process():
        ended = program(main, "compare", *NET, *short, *own)
    assert ended.code == 0, str(ended)
    return folder, ended.out


def test_every_run_has_its_folder_and_the_comparison_its_files(compared):
    folder, _ = compared
    assert files(folder) == {*RUNS, "report.html"} | pictures("comparison")
    for name in RUNS:
        assert files(folder / name) == FILES - {"figure.png", "figure.svg", "report.html"}  # not drawn here
        assert name in (folder / "report.html").read_text()


def test_the_table_has_both_spaces_over_both_seeds(compared):
    folder, out = compared
    runs = [f"{name.split('-')[0]} space, seed {name[-1]} (run {i} of 4)" for i, name in enumerate(RUNS, 1)]
    assert [line for line in out.splitlines() if line in runs] == runs
    assert "2 seeds" in out
    assert re.search(r"target.*weight", out)
    for row in ("test accuracy", "time per step", "memory added"):
        assert row in out
    assert re.search(rf"^report: {re.escape(str(folder))}.report\.html$", out, re.MULTILINE)
    assert str(folder) in out


def test_a_run_says_on_what_it_was_trained(compared):
    said = [
        json.loads((compared[0] / f"{space}-3/summary.json").read_text())["extra"] for space in ("target", "weight")
    ]
    assert {one["data"] for one in said} == {"Points, 64 training samples, batches of 16"}
    assert all(re.search(r", 1 thread$", one["hardware"]) for one in said)
    line = "2 of 2 layers (100.0 % of the trainable parameters), 20 reference samples, start normalised."
    assert [one.get("target space") for one in said] == [line, None]


def test_a_run_in_weight_space_is_one_and_everything_else_is_equal(compared):
    folder, _ = compared
    for seed in (3, 4):
        target, weight = (
            yaml.safe_load((folder / f"{s}-{seed}/config.yaml").read_text()) for s in ("target", "weight")
        )
        assert target.pop("target_space")["ridge"] == 0.25
        assert weight.pop("target_space") is None
        assert target == weight
        assert target["seed_everything"] == seed
        held = [torch.load(folder / f"{s}-{seed}/last.ckpt", weights_only=True) for s in ("target", "weight")]
        assert ["target_space" in checkpoint for checkpoint in held] == [True, False]
        summaries = [json.loads((folder / f"{s}-{seed}/summary.json").read_text()) for s in ("target", "weight")]
        assert [summary["space"] for summary in summaries] == ["target", "weight"]


@pytest.fixture
def within(monkeypatch, tmp_path):
    """As :func:`within_this_process`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with within_this_process() as trained:
        yield trained


REFUSED = {
    "weight space in both": ([*NET, "--target_space", "null"], "--target_space: found null, with which both spaces"),
    "weight space by default": (["--model", "tests.cli.plain.Net", *NET[2:]], "--target_space: found null"),
    "a typo": ([*NET, "--trainer.max_stepz", "3"], "trainer.max_steps"),
    "a typo in its own options": ([*NET, "--seedz", "3"], "seed"),
    "no files": (
        [*NET, "--trainer.fast_dev_run", "true"],
        "--trainer.fast_dev_run: found True, with which a run leaves",
    ),
    "bare": ([*NET, "--trainer.barebones", "true"], "--trainer.barebones: found True, with which a run leaves no"),
    "no logger": ([*NET, "--trainer.logger", "false"], "--trainer.logger: found False, with which a run leaves no"),
    "a seed that is none": ([*NET, "--seeds", "x"], "--seeds x: expected a whole number"),
    "a seed below zero": (
        [*NET, "--seeds", "0", "-1"],
        "--seeds: found -1; expected whole numbers from 0 to 4294967295.",
    ),
    "no rate": ([*NET, "--lrs", "0"], "--lrs: found 0.0; expected finite numbers above 0."),
    "a rate below zero": ([*NET, "--lrs", "1", "-1"], "--lrs: found -1.0; expected finite numbers above 0."),
    "a rate that is none": ([*NET, "--lrs", "nan"], "--lrs: found nan; expected finite numbers above 0."),
    "a level that is none": ([*NET, "--levels", "inf"], "--levels: found inf; expected finite numbers."),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_found_before_the_first_run(options, message, within, tmp_path):
    ended = program(main, "compare", *options)
    assert ended.code == 2, str(ended)
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert within == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--print_config", "seed_everything: 0"),
        ("--print_config=skip_null", "seed_everything: 0"),
        ("--target_space.help", "--target_space.ridge"),
        ("--trainer.callbacks.help=EarlyStopping", "--trainer.callbacks.monitor"),
    ],
)
def test_what_is_asked_of_the_options_is_printed_and_nothing_is_trained(option, said, within, tmp_path):
    ended = program(main, "compare", *NET, option)
    assert ended.code == 0, str(ended)
    assert said in ended.out
    assert (within, list(tmp_path.iterdir())) == ([], [])


def test_a_folder_that_holds_files_is_left_alone(within, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "found files in it" in mistake(main, "compare", *NET, "--out", tmp_path)
    assert (within, os.listdir(tmp_path)) == ([], ["thesis.tex"])


def test_a_run_that_fails_ends_it(within, tmp_path):
    ended = program(main, "compare", *NET, "--target_space.layers", "[nothing]", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "the run in " in ended.err
    assert len(within) == 1


@pytest.mark.parametrize(
    ("metric", "options", "steps"),
    [
        ("val/acuracy", ["--trainer.val_check_interval", "2"], 2),  # known with the first validation
        ("acuracy", ["--trainer.val_check_interval", "2"], 4),  # which may be an epoch's average
        ("train/los", [], 4),
        ("acuracy", ["--trainer.check_val_every_n_epoch", "2"], 8),
        ("acuracy", ["--trainer.limit_val_batches", "0"], 4),
    ],
)
def test_a_metric_that_there_is_not_ends_the_first_run_early(metric, options, steps, within, tmp_path):
    given = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--metric", metric, *options]
    made = ["--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "9", "--out", tmp_path / "out"]
    ended = program(main, "compare", *NET, *given, *made)
    assert ended.code == 2
    names = "train/loss" if "--trainer.limit_val_batches" in options else "test/accuracy, test/loss, train/loss"
    assert f"--metric {metric}: found {names}; expected one of these" in ended.err
    warned = f"warning: --metric {metric}: found {names} so far. The run ends after its first epoch"
    assert (warned in ended.err) == (metric == "acuracy" and "--trainer.val_check_interval" in options)
    assert len(within) == 1
    rows = (tmp_path / "out/target-0/metrics.csv").read_text().splitlines()[1:]
    assert len({row for row in rows if row.rpartition(",")[2]}) == steps  # train/loss is the last column


def test_a_metric_that_a_test_may_log_is_awaited():
    awaited = {name: NamedMetric(name, then_test=True)._may_be_of_the_test for name in ("acc", "test/acc", "val/acc")}
    assert awaited == {"acc": True, "test/acc": True, "val/acc": False}
    assert not NamedMetric("test/acc")._may_be_of_the_test


def test_a_named_metric_that_there_is_ends_nothing(within, tmp_path):
    short = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--metric", "test/accuracy"]
    own = "--trainer.callbacks+=TargetSpaceMonitor"  # callbacks of the user's own stay
    ended = program(main, "compare", *NET, *short, own, "--out", tmp_path / "out", drawn=False)
    assert ended.code == 0, str(ended)
    settings = yaml.safe_load((tmp_path / "out/target-0/config.yaml").read_text())
    kinds = [callback["class_path"].rpartition(".")[2] for callback in settings["trainer"]["callbacks"]]
    assert kinds == ["TargetSpaceMonitor", "NamedMetric"]


def test_learning_rates_are_tried_alike_in_both_spaces_and_the_best_go_on(within, tmp_path):
    short = ["--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false", "--trainer.val_check_interval", "2"]
    grid = ["--lrs", "0.02", "1e-6", "--seeds", "0", "1", "--metric", "train/loss", "--trainer.log_every_n_steps", "1"]
    ended = program(main, "compare", *NET, *short, *grid, "--out", tmp_path / "out", drawn=False)
    assert ended.code == 0, str(ended)
    tried = [(command[command.index("--model.lr") + 1], "null" in command) for command in within]
    assert tried[:4] == [("1e-06", False), ("1e-06", True), ("0.02", False), ("0.02", True)]
    assert [weight for _, weight in tried[4:]] == [False, True]  # the second seed, with the best of each space
    assert "run 6 of 6" in ended.out
    assert "each the best of 1e-06, 0.02 by the last train loss with seed 0: the same 2 trials for both." in ended.out
    assert "There is no validation data: they were chosen on training data" in ended.out


def test_a_module_without_a_learning_rate_cannot_try_some(within, tmp_path):
    error = mistake(
        main, "compare", "--model", "tests.cli.solved.Asked", *NET[2:], "--lrs", "1", "--out", tmp_path / "o"
    )
    assert "--lrs: found no learning rate among the module's arguments (target_space); expected one called lr" in error
    assert within == []


SHORT = ["--trainer.max_steps", "2", "--data.steps_per_epoch", "1", "--trainer.enable_progress_bar", "false"]


def test_a_recipe_is_compared_and_tested(within, tmp_path):
    ended = program(two_spirals.main, "compare", *SHORT, "--out", tmp_path / "out", drawn=False)
    assert ended.code == 0, str(ended)
    assert [command[0] for command in within] == ["--trainer.max_steps"] * 2  # without fit, so that a test follows it
    assert re.search(r"test accuracy", ended.out)


def test_a_recipe_without_arguments_is_compared(within, tmp_path, monkeypatch):
    settings = dict(zip((name.lstrip("-") for name in SHORT[::2]), SHORT[1::2], strict=True))
    monkeypatch.setattr(two_spirals, "DEFAULTS", {**two_spirals.DEFAULTS, **settings})
    ended = program(two_spirals.main, drawn=False)
    assert ended.code == 0, str(ended)
    (folder,) = (tmp_path / "runs" / "two_spirals_compare").iterdir()
    assert {"target-0", "weight-0"} <= files(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="spawned processes do not write to what is captured")
def test_a_run_of_a_comparison_ends_with_a_line_and_no_table(tmp_path, capfd):
    out = tmp_path / "out"
    quick = ["--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    two_spirals.main(["compare", *quick, "--out", str(out)])
    said = capfd.readouterr().out
    for space in ("target", "weight"):
        line = rf"^  .* after 2 steps and .* of training in {space} space\. {re.escape(str(out))}.{space}-0/$"
        assert len(re.findall(line, said, re.MULTILINE)) == 1
    assert "done after" not in said
    assert f"report: {out / 'report.html'}" in said


def says_what_it_was_given(arguments):
    """A program that leaves its process, the process's arguments and its own in the file that it is told."""
    with open(arguments[0], "w") as file:
        json.dump([os.getpid(), sys.argv[1:], arguments], file)
    sys.exit(7)


def test_a_run_is_a_process_of_its_own(tmp_path):
    given = [str(tmp_path / "said"), "--option"]
    assert module.in_a_process(says_what_it_was_given, given) == 7
    process, *arguments = json.loads((tmp_path / "said").read_text())
    assert process != os.getpid()
    assert arguments == [given, given]  # Lightning starts the further processes of a run from sys.argv


def interrupts_itself_and_the_program(arguments):
    """Ctrl-C in a terminal goes to both."""
    os.kill(os.getppid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        open(arguments[0], "w").close()  # as it would save its checkpoint
        sys.exit(130)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
def test_ctrl_c_is_answered_by_the_run_alone(tmp_path):
    assert module.in_a_process(interrupts_itself_and_the_program, [str(tmp_path / "saved")]) == 130
    assert (tmp_path / "saved").exists()
