"""``compare``: the same training in target and in weight space, side by side.

Every run is a process of its own with the program's ``fit``, so that memory and time are those of one run, and a run
repeated by hand gives the same numbers. The spaces take turns, seed by seed, so that a drift of the machine's speed
hits both.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ts_lightning import report
from ts_lightning.cli.files import run_folder
from ts_lightning.cli.program import INTERRUPTED
from ts_lightning.errors import SettingError

DOES = "train in target and in weight space, and compare"
Program = Callable[[Sequence[str]], None]
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
        SettingError: the options leave the module in weight space, a run failed, or it has no such metric.
        SystemExit: with 130 after Ctrl-C.
    """
    # not jsonargparse, which leaves no options over for another parser
    parser = argparse.ArgumentParser(
        prog=f"{command} compare",
        allow_abbrev=False,
        description="Train in target and in weight space with equal seeds and data, and compare. Options of fit are "
        "options here, too, and the same in both spaces but for --target_space.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Seeds, each for two runs (default: 0).")
    parser.add_argument("--metric", help="What to watch (default: an accuracy in validation, or a loss).")
    parser.add_argument("--levels", type=float, nargs="+", help="Levels to reach (default: some that were reached).")
    parser.add_argument("--out", type=Path, help=f"Folder, new or empty (default: runs/{name}_compare/<time>).")
    own, rest = parser.parse_known_args(arguments)
    _checked(program, rest)
    folder = run_folder(f"{name}_compare", own.out)
    fit = [*([] if then_test else ["fit"]), *rest]
    runs: list[report.Run] = []
    for seed in own.seeds:
        for space, options in _SPACES.items():
            number = len(runs) + 1
            print(f"{space} space, seed {seed} (run {number} of {len(own.seeds) * len(_SPACES)})", flush=True)
            part = folder / f"{space}-{seed}"
            runs.append(_trained(program, [*fit, "--seed_everything", str(seed), *options, "--out", str(part)], part))
            report.watched_metric(runs, own.metric)  # a name that no run has is found after the first
    comparison = report.Comparison.of(runs, own.metric, own.levels)
    report.draw_comparison(comparison, folder)
    report.write_comparison_page(comparison, folder)
    print(report.comparison_table(comparison))
    print(f"{folder}/: {', '.join(sorted(path.name for path in folder.iterdir()))}")


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
    if settings.get("target_space") is None:
        raise SettingError(
            "--target_space: found null, with which both spaces would be weight space; expected settings, as "
            "--target_space.ridge 1."
        )
    return settings


def _trained(program: Program, arguments: Sequence[str], folder: Path) -> report.Run:
    """The run of one process."""
    code = in_a_process(program, arguments)
    if code == INTERRUPTED:
        print(f"interrupted; what the runs left is in {folder.parent}/")
        sys.exit(INTERRUPTED)
    if code:
        raise SettingError(f"the run in '{folder}' ended with exit code {code}; what went wrong is said above.")
    return report.Run.read(folder)


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
    sys.argv[1:] = arguments  # from which Lightning starts further processes of the same run
    program(arguments)
