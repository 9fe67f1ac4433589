"""Hand-written recurrent networks in both spaces: recall by a module, by cells in a loop, and by cells of one's own.

    python benchmarks/loops.py          # measures what is missing, writes results/loops.jsonl, and the table
    python benchmarks/loops.py --draw   # only the table of docs/models.md

A vanilla network of delay + 3 units says the bit of ``delay`` steps ago, in mini-batches of 100 new sequences. Target
space is untuned: ``TargetSpaceConfig()`` with ``TargetAdam``. In weight space the rate of Adam is the best of four by
the last right share with seed 0, from the orthogonal or from PyTorch's own start, whichever is better.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import fill, markdown, options
from benchmarks.peers.results import Results
from ts_lightning import TargetAdam, TargetSpace

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "loops.jsonl")
DELAYS = {20: 300, 40: 600}  # with training steps
RATES = (0.0003, 0.001, 0.003, 0.01)
SEEDS = (1, 2, 3)
KINDS = {
    "module": "`nn.RNN` on whole sequences",
    "cell": "`nn.RNNCell` in a loop",
    "one layer": "one `nn.Linear` of input and state",
    "two layers": "two `nn.Linear`, added",
}
LEVEL = 0.99


class Recall(nn.Module):
    """The network.

    Args:
        kind: how its recurrent part is written.
        delay: how long ago the bit is.
    """

    def __init__(self, kind: str, delay: int) -> None:
        super().__init__()
        self.kind, self.delay, units = kind, delay, delay + 3
        self.units, self.readout = units, nn.Linear(units, 2)
        if kind == "module":
            self.cell: nn.Module = nn.RNN(1, units, batch_first=True)
        elif kind == "cell":
            self.cell = nn.RNNCell(1, units)
        else:
            self.cell = nn.Linear(units if kind == "two layers" else units + 1, units)
        self.inputs = nn.Linear(1, units) if kind == "two layers" else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (samples, steps - delay, 2) for bits (samples, steps, 1)."""
        if self.kind == "module":
            states = self.cell(x)[0]
        else:
            h, found = x.new_zeros(len(x), self.units), []
            for step in x.unbind(1):
                h = self._next(step, h)
                found.append(h)
            states = torch.stack(found, 1)
        logits: Tensor = self.readout(states[:, self.delay :])
        return logits

    def _next(self, step: Tensor, h: Tensor) -> Tensor:
        if self.kind == "cell":
            state: Tensor = self.cell(step, h)
            return state
        if self.inputs is not None:
            return torch.tanh(self.inputs(step) + self.cell(h))
        return torch.tanh(self.cell(torch.cat([step, h], 1)))

    def start_orthogonal(self) -> None:
        """Make recurrent weights orthogonal."""
        for name, parameter in self.cell.named_parameters():
            if parameter.dim() == 2 and "ih" not in name:
                nn.init.orthogonal_(parameter[:, -self.units :].data)


def batches(delay: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches of bits, and the bits of ``delay`` steps before."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = torch.randint(2, (100, 2 * delay), generator=generator)
        yield 2.0 * drawn.unsqueeze(-1) - 1, drawn[:, :delay]


def train(kind: str, delay: int, seed: int, rate: float | None, orthogonal: bool) -> dict[str, float]:
    """Train once; ``rate`` of Adam in weight space, None for target space.

    Returns:
        The right share over the last 20 steps, the first step from which on 20 are above the level (0 for none), and
        processor milliseconds of a step.
    """
    torch.manual_seed(seed)
    model, data = Recall(kind, delay), batches(delay, seed)
    if orthogonal:
        model.start_orthogonal()
    space = TargetSpace(model, next(data)[0]) if rate is None else None
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.Adam(model.parameters(), rate or 0) if space is None else TargetAdam(space.parameters())
    right, begun = [], time.process_time()
    for x, y in itertools.islice(data, DELAYS[delay]):
        logits = model(x)
        right.append(float((logits.argmax(-1) == y).double().mean()))
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        if space is not None:
            space.pullback()
        optimizer.step()
        if space is not None:
            space.solve()
    ms = (time.process_time() - begun) / len(right) * 1e3
    reached = [n for n in range(len(right) - 19) if statistics.fmean(right[n : n + 20]) >= LEVEL]
    return {"right": statistics.fmean(right[-20:]), "reached": reached[0] + 1 if reached else 0, "ms": ms}


def _measure(kind: str, delay: int, seed: int, rate: float | None, orthogonal: bool) -> dict[str, float]:
    """What a run gave that is in the file, or is made now."""
    line = {"kind": kind, "delay": delay, "seed": seed, "rate": rate, "orthogonal": orthogonal}
    known = RESULTS.find(line)
    if known is not None:
        return known
    found = train(kind, delay, seed, rate, orthogonal)
    RESULTS.add({**line, **found})
    print(line, found, flush=True)
    return found


def measure() -> None:
    """All runs that are missing."""
    for delay, kind in itertools.product(DELAYS, KINDS):
        choices = list(itertools.product(RATES, (False, True)))
        tuned = {(r, o): _measure(kind=kind, delay=delay, seed=0, rate=r, orthogonal=o)["right"] for r, o in choices}
        rate, orthogonal = max(choices, key=lambda choice: tuned[choice])
        for seed in SEEDS:
            _measure(kind=kind, delay=delay, seed=seed, rate=None, orthogonal=False)
            _measure(kind=kind, delay=delay, seed=seed, rate=rate, orthogonal=orthogonal)


def page() -> None:
    """The table."""
    rows = []
    for delay, (kind, title) in itertools.product(DELAYS, KINDS.items()):
        cells = []
        for target in (True, False):
            lines = [
                line
                for line in RESULTS.lines
                if (line["kind"], line["delay"], line["rate"] is None) == (kind, delay, target)
                and line["seed"] in SEEDS
            ]
            reached = [line["reached"] or float("inf") for line in lines]
            steps = statistics.median(reached)
            right = ", ".join(f"{100 * line['right']:.1f}" for line in lines)
            cells += [right, "never" if steps == float("inf") else f"{steps:.0f}"]
            cells += [f"{statistics.median(line['ms'] for line in lines):.0f}"]
        rows.append([str(delay), title, *cells])
    head = ["delay", "how it is written", *["target space: right, %", "steps to 99 %", "ms a step"]]
    fill(
        ROOT / "docs" / "models.md", {"loops": markdown([*head, "Adam: right, %", "steps to 99 %", "ms a step"], rows)}
    )


def main() -> None:
    """Measure what is missing, and fill the table in."""
    given = options(__doc__, draws=True).parse_args()
    torch.set_num_threads(1)
    if not given.draw:
        measure()
    page()


if __name__ == "__main__":
    main()
