"""What might mend target space where it falls behind: ridges that choose themselves or change, new samples, decay, ...

    python benchmarks/variations.py --data FOLDER   # measures what is missing, writes results/variations.jsonl
    python -m benchmarks.evidence                   # the table, in docs/evidence_settings.md

Workloads, schedule and TargetAdam at 0.002 are those of ``benchmarks/peers``, with five seeds. Each variation changes
one thing of the untuned target space:

- GCV, evidence: every ten steps each layer takes the ridge, of 17 from 0.01 to 100, that generalised cross-validation
  (Golub, Heath and Wahba, Technometrics 21, 1979) or the evidence (MacKay, Neural Computation 4, 1992) chooses for its
  inputs and targets on the reference batch.
- ridge 10, ridge 30: the ridge is this in place of 1.
- rises, falls: the ridge goes from 1 to 10, or to a tenth, by the same factor in every step.
- noise: the solve takes account of independent noise of a tenth on the inputs of dense layers, as of dropout.
- decay: every step shrinks the targets by three times its learning rate, and with them the weights.
- refreshed: four times, after every fifth of the budget, other training samples are the reference batch.
- handed over: the last third is trained in weight space, by AdamW at 0.001 on the same schedule.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import markdown, options
from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.handed_over import HandedOver
from benchmarks.peers.once import ends, train_once
from benchmarks.peers.results import Results
from benchmarks.peers.target import target_space
from benchmarks.peers.workload import Data, Workload
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning import TargetAdam, TargetSpace, TargetSpaceConfig
from ts_lightning.layers.affine import AffineLayer, noisy_columns
from ts_lightning.lightning.reference_data import reference_size
from ts_lightning.ridge.factor import Factor
from ts_lightning.ridge.kept import FactoredMap

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "variations.jsonl")
SETTING: Setting = CONTENDERS["target-default"].first
SEEDS = (1, 2, 3, 4, 5)
RIDGES = torch.logspace(-2, 2, 17).tolist()
CHOSEN = ["tanh-5", "relu-5", "recall-20", "adder-20", "digits-100-tanh", "digits-1000-tanh", "digits-100-relu"]
CHOSEN += ["digits-1000-relu", "breast_cancer", "wine", "diabetes"]

#: function of the space, its optimizer, the data, the step and the budget, called before every solve
Change = Callable[[TargetSpace, torch.optim.Optimizer, Data, int, int], None]


def _unchanged(space: TargetSpace, optimizer: torch.optim.Optimizer, data: Data, step: int, steps: int) -> None:
    """The default."""


def _chosen(
    rule: Callable[..., float], space: TargetSpace, optimizer: torch.optim.Optimizer, data: Data, step: int, steps: int
) -> None:
    """Give every layer of one system the ridge that a rule likes best."""
    if step % 10 != 1:
        return
    kept: dict[str, list[FactoredMap]] = {layer.name: [] for layer in space.layers}
    seen: dict[str, list[tuple[Factor, Tensor]]] = {layer.name: [] for layer in space.layers}
    for layer in space.layers:
        layer.solver.keep = kept[layer.name].append
        layer.solver.observer = partial(_note, seen[layer.name])
    space.solve()
    for layer in space.layers:
        layer.solver.keep = layer.solver.observer = None
        a, (factor, t) = kept[layer.name][0].matrix, seen[layer.name][0]
        assert a is not None, f"layer '{layer.name}' has no matrix A"
        layer.solver.ridge = _best(rule, a, t, float(factor.c) / layer.solver.ridge)


def _note(
    seen: list[tuple[Factor, Tensor]], factors: Sequence[Factor], t: Tensor, residual: Callable[[], Tensor]
) -> None:
    """A layer's first system and its targets."""
    seen.append((factors[0], t))


@torch.no_grad()
def _best(rule: Callable[..., float], a: Tensor, t: Tensor, unit: float) -> float:
    """The ridge, in its unit, at which a rule is lowest."""
    left, singular, _ = torch.linalg.svd(a.double(), full_matrices=False)
    t = t.double()
    along = (left.mT @ t).square().sum(1)  # of T along each singular direction
    beside = (t.square().sum() - along.sum()).clamp_min(0)  # of T in none
    return min(RIDGES, key=lambda ridge: rule(singular.square(), along, beside, len(a), t.shape[1], ridge * unit))


def _gcv(squares: Tensor, along: Tensor, beside: Tensor, rows: int, outputs: int, c: float) -> float:
    """The mean square of the residual over the square of the share of freedom that is left."""
    residual = ((c / (squares + c)).square() * along).sum() + beside
    return float(residual / (rows - (squares / (squares + c)).sum()).square())


def _evidence(squares: Tensor, along: Tensor, beside: Tensor, rows: int, outputs: int, c: float) -> float:
    """Less the logarithm of the probability of T, for Gaussian weights and noise of the likeliest size."""
    left = (c / (squares + c) * along).sum() + beside
    return float(outputs * torch.log1p(squares / c).sum() + rows * outputs * left.log())


def _moving(end: float, space: TargetSpace, optimizer: Any, data: Data, step: int, steps: int) -> None:
    """Multiply the ridge by the same number in each step, by ``end`` in all."""
    for layer in space.layers:
        for solver in layer.solvers:
            solver.ridge *= end ** (1 / steps)


def _noisy(space: TargetSpace, optimizer: Any, data: Data, step: int, steps: int) -> None:
    """Let dense layers expect noise."""
    for layer in space.layers if step == 1 else ():
        if isinstance(layer, AffineLayer):
            layer.__dict__["expect_noise"] = partial(_expect, layer)


def _expect(layer: AffineLayer, x: Any, noise_of: Any) -> None:
    layer.solver.noise = noisy_columns(0.1, layer.inputs, layer.bias is not None, layer.weight)


@torch.no_grad()
def _decayed(space: TargetSpace, optimizer: Any, data: Data, step: int, steps: int) -> None:
    """Shrink the targets."""
    for target in space.targets.values():
        target.mul_(1 - 3 * optimizer.param_groups[0]["lr"])


def _refreshed(space: TargetSpace, optimizer: torch.optim.Optimizer, data: Data, step: int, steps: int) -> None:
    """Take other samples, and start the moments of targets anew."""
    if step % (steps // 5) or step == steps:
        return
    space.solve()
    size = reference_size(space.cascade.model, space.config.reference.size)
    space.refresh(data.train.x[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(step))[:size]])
    for target in space.targets.values():
        optimizer.state.pop(target, None)


def _adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.01)]


VARIATIONS: dict[str, Change] = {
    "default": _unchanged,
    "ridge 10": _unchanged,
    "ridge 30": _unchanged,
    "GCV": partial(_chosen, _gcv),
    "evidence": partial(_chosen, _evidence),
    "rises": partial(_moving, 10.0),
    "falls": partial(_moving, 0.1),
    "noise": _noisy,
    "decay": _decayed,
    "refreshed": _refreshed,
    "handed over": _unchanged,
}


def make(name: str, model: nn.Module, workload: Workload, data: Data, setting: Setting) -> Learner:
    """What trains a model with a variation."""
    config = TargetSpaceConfig(ridge=float(name.split()[1]) if name.startswith("ridge ") else "auto")
    space = target_space(model, data, config)
    optimizer = TargetAdam(space.parameters(), lr=setting["lr"])
    if name == "handed over":
        steps = workload.steps
        return HandedOver(model, space, optimizer, steps, steps - steps // 3, _adamw)
    made = 0

    def solve() -> None:
        nonlocal made
        made += 1
        VARIATIONS[name](space, optimizer, data, made, workload.steps)
        space.solve()

    return Learner([optimizer], workload.steps, space.pullback, solve)


def tables() -> dict[str, str]:
    """The default's test metric in per cent, and by how many points each variation ends above it."""
    rows = []
    for name in CHOSEN:
        found = {one: ends(RESULTS, workload=name, variation=one) for one in VARIATIONS}
        means = {one: statistics.fmean(100 * end for end in values) for one, values in found.items()}
        others = [mean - means["default"] for one, mean in means.items() if one != "default"]
        gains = [f"{round(gain, 1) + 0.0:+.1f}" for gain in others]  # no -0.0
        rows.append([WORKLOADS[name].title, f"{means['default']:.1f}", *gains])
    return {"variations": markdown(["workload", *VARIATIONS], rows)}


def main() -> None:
    """Measure what is missing."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    for name in CHOSEN:
        for variation in VARIATIONS:
            contender = Contender(variation, variation, partial(make, variation), (SETTING["lr"],), SETTING["lr"])
            for seed in SEEDS:
                line = {"workload": name, "variation": variation, "seed": seed}
                train_once(RESULTS, line, contender, SETTING, given.data)


if __name__ == "__main__":
    main()
