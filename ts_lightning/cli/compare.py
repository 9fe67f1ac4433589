"""``compare``: the same training in target and in weight space, side by side.

Every run is a process of its own with the program's ``fit``, so that memory and time are those of one run, and a run
repeated by hand gives the same numbers. The spaces take turns, seed by seed, so that a drift of the machine's speed
hits both.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ts_lightning import report
from ts_lightning.cli.arguments import Arguments
from ts_lightning.cli.files import run_folder
from ts_lightning.cli.finish import shorten
from ts_lightning.cli.parser import typed
from ts_lightning.errors import SettingError
from ts_lightning.interrupt import INTERRUPTED
from ts_lightning.report.run import PAGE
from ts_lightning.report.summary import FILE as SUMMARY

DOES = "train in target and in weight space, and compare"
Program = Callable[[Sequence[str]], None]
#: what modules call their learning rate
_RATES = ("lr", "learning_rate")
#: what each run is told beyond the user's options
_SPACES: dict[str, list[str]] = {"target": [], "weight": ["--target_space", "null"]}


def compare(command: str, arguments: Sequence[str], name: str, program: Program, then_test: bool = False) -> None:
    """Train in both spaces, then print the table, and leave ``comparison.png``, ``.svg`` and ``report.html``.

    Args:
        command: what to type for the program, as ``ts-lightning``.
        arguments: options of the comparison, and those of ``fit``.
        name: of the program, after which folders of runs are called.
        program: runs a command of the program, in a process of its own.
        then_test: runs without a command, which the program takes for ``fit`` and then ``test``.

    Raises:
        SettingError: the options leave the module in weight space, the first runs failed, or there is no such metric.
        SystemExit: with 130 after Ctrl-C.
    """
    # not jsonargparse, which leaves no options over for another parser
    parser = Arguments(
        prog=f"{command} compare",
        description="Train in target and in weight space with equal seeds and data, and compare. Options of fit are "
        "options here, too, and the same in both spaces but for --target_space.",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="Seeds, each for two runs (default: --seed_everything, 0)."
    )
    parser.add_argument(
        "--lrs",
        type=float,
        nargs="+",
        help="Learning rates to try in both spaces with the first seed; each space goes on with its best by the last "
        "value of the metric, which is to be one of validation (default: what module and options say).",
    )
    parser.add_argument("--metric", help="What to watch (default: an accuracy in validation, or a loss).")
    parser.add_argument("--levels", type=float, nargs="+", help="Levels to reach (default: some that were reached).")
    parser.add_argument("--out", type=Path, help=f"Folder, new or empty (default: runs/{name}_compare/<time>).")
    own, rest = parser.parse_known_args(arguments)
    names = [word.partition("=")[0] for word in rest]
    if any(name.startswith("--print_") or (name.startswith("--") and name.endswith(".help")) for name in names):
        program(["fit", *rest])  # which prints what is asked for, and ends
        return
    _check_numbers(own)
    with typed(f"{command} compare"):
        settings = _checked(program, rest)
    rate = _rate_option(settings) if own.lrs else ""
    lrs, seeds = sorted(set(own.lrs or [])), list(dict.fromkeys(own.seeds or [_seed(settings)]))
    folder = run_folder(f"{name}_compare", own.out)
    named = []
    if own.metric is not None:
        named = ["--trainer.callbacks+=ts_lightning.cli.named.NamedMetric", f"--trainer.callbacks.name={own.metric}"]
        named.append(f"--trainer.callbacks.then_test={str(then_test).lower()}")
    series = _Series(program, [*([] if then_test else ["fit"]), *rest, *named], folder, own.metric)
    series.expected = 2 * (len(seeds) + max(len(lrs) - 1, 0))
    first, *others = seeds
    tuning = None
    if lrs:
        trials: dict[str, list[report.Trial]] = {"target": [], "weight": []}
        for lr in lrs:
            for space, tried in trials.items():
                run = series.run(space, first, [f"--{rate}", f"{lr:g}"], f"-lr{lr:g}", needed=lr == lrs[0])
                tried.append(report.Trial(lr, run))
        for space, tried in trials.items():
            if all(trial.failed for trial in tried):
                raise SettingError(f"--lrs: found none that trains in {space} space; what went wrong is said above.")
        complete = [run for run in series.runs if not run.summary.failed]
        tuning = report.Tuning(report.watched_metric(complete, own.metric), first, **trials)
        chosen = {space: tuning.chosen(space) for space in trials}
        runs = [trial.run for trial in chosen.values() if trial.run is not None]
        options = {space: [f"--{rate}", f"{trial.lr:g}"] for space, trial in chosen.items()}
    else:
        options = {"target": [], "weight": []}
        runs = [run for space in options if (run := series.run(space, first, needed=True)) is not None]
    remarks = _remarks(settings)
    for seed in others:
        made = {space: series.run(space, seed, options[space]) for space in options}
        complete = [run for run in made.values() if run is not None and not run.summary.failed]
        if len(complete) == len(made):
            runs += complete
        else:
            failed = [f"{space} space" for space, run in made.items() if run not in complete]
            remarks.append(f"Left out: seed {seed}, with which training in {' and in '.join(failed)} failed.")
    comparison = report.Comparison.of(runs, own.metric, own.levels, tuning=tuning, remarks=remarks)
    report.draw_comparison(comparison, folder)
    report.write_comparison_page(comparison, folder)
    print(f"\n{report.verdict(comparison)}\n{report.comparison_table(comparison)}\n\nreport: {folder / PAGE}")


def _check_numbers(own: argparse.Namespace) -> None:
    """Refuse numbers with which no run can train, or that no metric can reach."""
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "seeds": (lambda seed: 0 <= seed < 2**32, "whole numbers from 0 to 4294967295"),
        "lrs": (lambda lr: math.isfinite(lr) and lr > 0, "finite numbers above 0"),
        "levels": (math.isfinite, "finite numbers"),
    }
    for name, (takes, what) in expected.items():
        for number in getattr(own, name) or []:
            if not takes(number):
                raise SettingError(f"--{name}: found {number}; expected {what}.")


def _checked(program: Program, options: Sequence[str]) -> dict[str, Any]:
    """All settings of the runs; a mistake in the options is found before the first run."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            program(["fit", *options, "--print_config"])
    except SystemExit as ended:
        if ended.code:
            raise
    settings: dict[str, Any] = yaml.safe_load(printed.getvalue())
    trainer = settings.get("trainer") or {}
    for option, without in (("fast_dev_run", bool), ("barebones", bool), ("logger", lambda value: value is False)):
        if without(trainer.get(option)):
            raise SettingError(
                f"--trainer.{option}: found {trainer[option]}, with which a run leaves no metrics to compare; leave it "
                f"out."
            )
    if settings.get("target_space") is None:
        raise SettingError(
            "--target_space: found null, with which both spaces would be weight space; expected settings, as "
            "--target_space.ridge 1."
        )
    return settings


def _seed(settings: Mapping[str, Any]) -> int:
    """The seed that the settings say; 0 where they leave it to Lightning, by true or false."""
    seed = settings["seed_everything"]
    return 0 if seed is None or isinstance(seed, bool) else int(seed)


def _remarks(settings: Mapping[str, Any]) -> list[str]:
    """What of the optimizer's settings counts in one space alone."""
    optimizer = settings.get("optimizer") or {}
    arguments = optimizer.get("init_args", {})
    multiple = arguments.get("rest_lr_mult", 1)
    found = []
    if multiple != 1:
        found.append(
            f"rest_lr_mult={multiple:g} counts in target space alone: what is not solved has {multiple:g} times the "
            f"learning rate there, and in weight space that of everything else."
        )
    if arguments.get("adaptive_lr"):
        found.append("adaptive_lr counts in target space alone: in weight space the rate does not grow.")
    return found


def _rate_option(settings: Mapping[str, Any]) -> str:
    """The option that sets the learning rate.

    Raises:
        SettingError: the settings have none.
    """
    if settings.get("optimizer"):
        return "optimizer.lr"
    model = settings.get("model") or {}
    arguments = model.get("init_args", model)
    for name in _RATES:
        if name in arguments:
            return f"model.{name}"
    raise SettingError(
        f"--lrs: found no learning rate among the module's arguments ({', '.join(arguments) or 'none'}); expected one "
        f"called {' or '.join(_RATES)}, or an optimizer, as --optimizer torch.optim.Adam."
    )


class _Series:
    """The runs of a comparison, one after the other.

    Args:
        program: what runs them.
        arguments: of all.
        folder: of the comparison.
        metric: that all are to have; ``None`` takes any.

    Attributes:
        runs: those that have ended.
        expected: how many there will be.
    """

    def __init__(self, program: Program, arguments: Sequence[str], folder: Path, metric: str | None) -> None:
        self.runs: list[report.Run] = []
        self.expected = self._begun = 0
        self._program, self._arguments, self._folder, self._metric = program, list(arguments), folder, metric

    def run(
        self, space: str, seed: int, options: Sequence[str] = (), name: str = "", *, needed: bool = False
    ) -> report.Run | None:
        """Train in a space, in a process of its own, with these further options.

        Args:
            space: target or weight.
            seed: of the run.
            options: beside those of all runs.
            name: of a trial; empty for a run that is to be compared.
            needed: whether a failure ends the comparison; that of a trial only if it has measured nothing.

        Returns:
            The run, which may have failed; None for one that failed before it measured anything.

        Raises:
            SettingError: a run that is needed failed.
            SystemExit: with 130 after Ctrl-C.
        """
        self._begun += 1
        rate = f", learning rate {options[1]}" if options else ""
        print(f"{space} space, seed {seed}{rate} (run {self._begun} of {self.expected})", flush=True)
        part = self._folder / f"{space}-{seed}{name}"
        own = ["--seed_everything", str(seed), *options, *_SPACES[space], "--out", str(part)]
        code = in_a_process(self._program, [*self._arguments, *own])
        if code == INTERRUPTED:
            print(f"interrupted; what the runs left is in {self._folder}/")
            sys.exit(INTERRUPTED)
        measured = (part / SUMMARY).is_file()
        if code and needed and not (name and measured):
            raise SettingError(f"the run in '{part}' ended with exit code {code}; what went wrong is said above.")
        if code and not measured:
            return None
        run = report.Run.read(part)
        self.runs.append(run)
        # that a fit lacks the metric is found in the run itself, but not that a test does; a failed run may have ended
        # before it came
        report.watched_metric(self.runs if run.summary.failed else [run], self._metric)
        return run


def in_a_process(program: Program, arguments: Sequence[str]) -> int:
    """Run a command in a process of its own, and wait for it; Ctrl-C is the command's alone to answer.

    On Linux the process is a fork of this one, which has imported all that takes seconds and computed nothing yet.

    Returns:
        The exit code.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    child = context.Process(target=_child, args=(program, list(arguments)))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child.start()
        child.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    return int(child.exitcode)


def _child(program: Program, arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shorten()
    sys.argv[1:] = arguments  # from which Lightning starts further processes of the same run
    program(arguments)
