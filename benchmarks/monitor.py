"""What TargetSpaceMonitor adds to a step at its default interval, in fits with and without it that take turns.

    python benchmarks/monitor.py                   # every case
    python benchmarks/monitor.py cnn --rounds 5

A turn is a few steps of a fit in a process of its own, the last of which the Trainer logs and the monitor, if there is
one, observes; with Adam, batches of 100, a reference batch of 100 and a CSVLogger. All columns are medians over rounds:

- "others": a step that is neither observed nor logged, with the monitor / without it.
- "logged", "observed": the last step of a turn, without the monitor and with it, in the others of its turn.
- "per step": what observing adds, ("observed" - "logged") / the default of ``every_n_steps``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import CASES, Case
from benchmarks.children import Child, options, rounds_of
from ts_lightning import TargetSpaceMixin, TargetSpaceMonitor

TURN = 10
DEFAULT = TargetSpaceMonitor().every_n_steps


class Lit(TargetSpaceMixin, LightningModule):
    """A case's network."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net = case.build()
        self.target_space = case.config("auto")
        self.reference = case.data()[2]

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.net(x)

    def reference_batch(self) -> Tensor:
        """The case's."""
        return self.reference

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss, which is logged."""
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.001)


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    """The case's batch, again and again."""

    def __init__(self, case: Case) -> None:
        self.batch = case.data()[:2]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches."""
        while True:
            yield self.batch


class Turns(Callback):
    """Waits for a line before each turn, and prints how long each of its steps took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def clock(self) -> float:
        """Now, with all work done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A step ends where the next one begins, so that logging counts."""
        now = self.clock()
        if batch_idx:
            self.seconds.append(now - self.began)
        if len(self.seconds) == TURN or not batch_idx:
            print(json.dumps(self.seconds), flush=True)
            self.seconds = []
            sys.stdin.readline()
        self.began = self.clock()


def serve(case: Case, device: str, monitored: bool) -> None:
    """The child's side: a fit without end."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=-1,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            logger=CSVLogger(folder),
            log_every_n_steps=TURN,
            callbacks=[*([TargetSpaceMonitor(every_n_steps=TURN)] if monitored else []), Turns()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(Lit(case), DataLoader(Endless(case), batch_size=None))


def measure(name: str, device: str, threads: int, rounds: int) -> None:
    """Print one case's line."""
    children = {which: Child(__file__, name, which, device, threads, quiet=True) for which in ("plain", "monitored")}
    for child in children.values():
        child.ask()  # the first turn finds nothing warm
    plain, monitored = [], []
    for done in rounds_of(name, rounds, list(children.values())):
        order = sorted(children, reverse=bool(done % 2))
        times = {which: json.loads(children[which].ask()) for which in order}
        plain.append(times["plain"])
        monitored.append(times["monitored"])
    median = statistics.median
    logged = median(a[-1] / median(a[:-1]) for a in plain)
    observed = median(b[-1] / median(b[:-1]) for b in monitored)
    others = median(median(b[:-1]) / median(a[:-1]) for a, b in zip(plain, monitored, strict=True))
    milliseconds = 1e3 * median(second for turn in plain for second in turn)
    print(
        f"{name:14}{milliseconds:10.2f}{others:10.3f}{logged:10.2f}{observed:10.2f}"
        f"{100 * (observed - logged) / DEFAULT:11.2f} %"
    )


def main() -> None:
    """Parse the command line and measure."""
    args = options(__doc__, 15, "two fits")
    if args.serve:
        serve(CASES[args.cases[0]], args.device, args.serve == "monitored")
        return
    print(f"every {DEFAULT} steps: {args.device}, {args.threads} threads, {args.rounds} rounds")
    heads = {"ms/step": 10, "others": 10, "logged": 10, "observed": 10, "per step": 13}
    print(f"{'':14}" + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for name in args.cases:
        measure(name, args.device, args.threads, args.rounds)


if __name__ == "__main__":
    main()
