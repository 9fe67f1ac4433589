"""Programs run within a test's own process, and what a run leaves in its folder."""

import csv
import io
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

FILES = {"config.yaml", "figure.png", "figure.svg", "last.ckpt", "metrics.csv", "report.html", "summary.json"}


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    def __str__(self):
        return f"exit code {self.code}; {self.out[-1000:]} {self.err[-3000:]}"


def program(main, *arguments, drawn=True):
    """Run ``main`` with these command-line arguments; without ``drawn`` it leaves neither pictures nor a report."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), nullcontext() if drawn else _undrawn():
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


@contextmanager
def _undrawn():
    """Nothing is drawn in the block, which is most of what a short run takes."""
    with pytest.MonkeyPatch.context() as patch:
        unreported(patch)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        yield


def unreported(patch):
    """Runs leave neither their figure nor a report, and pictures all the same."""
    for name in ("draw_run", "write_page", "draw_comparison", "write_comparison_page"):
        patch.setattr(f"ts_lightning.report.{name}", lambda *_: None)


def unarranged(patch):
    """Panels are drawn without being arranged first, which takes as long; the tests of pictures and reports arrange."""
    patch.setattr("matplotlib.figure.Figure.get_layout_engine", lambda self: None)


def done(main, *arguments, drawn=True):
    """What a program printed that is to train and end well."""
    ended = program(main, *arguments, "--trainer.enable_progress_bar", "false", drawn=drawn)
    assert ended.code == 0, str(ended)
    return ended


def mistake(main, *arguments):
    """What a program says to a mistake: a few lines without usage or traceback, and exit code 2."""
    ended = program(main, *arguments)
    assert ended.code == 2, str(ended)
    assert "Traceback" not in ended.err
    assert "usage:" not in ended.err
    assert len(ended.err.splitlines()) <= 12, ended.err
    return ended.err


def files(folder):
    # older Lightnings write an empty hparams.yaml as well
    return {path.name for path in folder.iterdir()} - {"hparams.yaml"}


def pictures(*names):
    """The files of pictures."""
    return {f"{name}.{ending}" for name in names for ending in ("png", "svg")}


def metrics(folder, name):
    with (folder / "metrics.csv").open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]
