"""The surface of the loss in both spaces: along the gradient and along random directions, at equal loss.

    python benchmarks/surface.py --data FOLDER   # measures, writes benchmarks/results/surface.json
    python -m benchmarks.evidence                # the figure, in docs/evidence.md

Both spaces train a tanh MLP of 30 layers on MNIST until the loss of a fixed batch falls below a level. From there the
loss of that batch is computed along the negative gradient and along random directions. Directions are normalised alike
in both spaces: layer by layer, to the norm of the layer's parameters (weight and bias, or targets), so that a distance
of 0.1 changes every layer by a tenth of itself (Li et al., 2018).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp
from benchmarks.pages import options
from benchmarks.peers.data import images
from benchmarks.peers.starts import start
from benchmarks.peers.workload import Split, batches
from ts_lightning import TargetSpace

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "surface.json"
LEVELS = (1.0, 0.5)  # of the loss
_DEPTH, _WIDTH, _BATCH, _STEPS = 30, 64, 1000, 2000
_DIRECTIONS = 5
_DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)

Line = dict[str, Any]
Groups = Sequence[Sequence[nn.Parameter]]  # of each layer what moves together


def loss_along(
    groups: Groups, direction: Sequence[Sequence[Tensor]], loss: Callable[[], float], distances: Sequence[float]
) -> list[float]:
    """The loss at each distance along a direction, whose norm is made that of the parameters, group by group."""
    before = [[p.detach().clone() for p in group] for group in groups]
    found = []
    for distance in distances:
        with torch.no_grad():
            for group, old, towards in zip(groups, before, direction, strict=True):
                scale = distance * _norm(old) / max(_norm(towards), 1e-30)
                for p, was, d in zip(group, old, towards, strict=True):
                    p.copy_(was + scale * d)
        found.append(loss())
    with torch.no_grad():
        for group, old in zip(groups, before, strict=True):
            for p, was in zip(group, old, strict=True):
                p.copy_(was)
    return found


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.cat([t.detach().flatten() for t in tensors]).norm())


def measure(space: str, data: Split, seed: int) -> list[Line]:
    """Train in a space, and look at the surface wherever a level is first reached."""
    torch.manual_seed(seed)
    model = mlp(_DEPTH, 784, _WIDTH, 10)
    fixed = data.part(0, _BATCH)
    engine = TargetSpace(model, data.x[:200]) if space == "target" else None
    if engine is None:
        start(model, "data", "tanh", data.x)
        groups: Groups = [list(layer.parameters()) for layer in model.children() if isinstance(layer, nn.Linear)]
    else:
        groups = [[target] for target in engine.targets.values()]
    parameters = list(model.parameters()) if engine is None else list(engine.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.001 if engine is None else 0.002)

    def criterion(batch: Split) -> Tensor:
        return nn.functional.cross_entropy(model(batch.x), batch.y)

    @torch.no_grad()
    def solved_loss() -> float:
        if engine is not None:
            engine.solve()
        return float(criterion(fixed))

    def gradients(batch: Split) -> list[list[Tensor]]:
        optimizer.zero_grad()
        criterion(batch).backward()  # type: ignore[no-untyped-call]
        if engine is not None:
            engine.pullback()
        return [[p.grad.clone() for p in group if p.grad is not None] for group in groups]

    found: list[Line] = []
    levels = list(LEVELS)
    samples = batches(data, 100, seed)
    for step in range(_STEPS):
        while levels and solved_loss() < levels[0]:
            generator = torch.Generator().manual_seed(seed)
            down = [[-g for g in group] for group in gradients(fixed)]
            random = [
                [[torch.randn(p.shape, generator=generator) for p in group] for group in groups]
                for _ in range(_DIRECTIONS)
            ]
            along = partial(loss_along, groups, loss=solved_loss, distances=_DISTANCES)
            known = {"space": space, "seed": seed, "level": levels.pop(0), "step": step, "loss": solved_loss()}
            found.append({**known, "gradient": along(down), "random": [along(direction) for direction in random]})
            solved_loss()
        if not levels:
            break
        gradients(Split(*next(samples)))
        optimizer.step()
        if engine is not None:
            engine.solve()
    return found


def draw(stem: Path) -> None:
    """The change of the loss over the distance, for each level and kind of direction."""
    from ts_lightning.report.drawing import SPACES, figure

    lines = json.loads(RESULTS.read_text())["lines"]
    title = "Loss along directions, relative to where they begin (tanh MLP of 30 layers, MNIST)"
    with figure(stem, title, [4.7] * 2 * len(LEVELS), 3.0) as panels:
        for row, level in enumerate(LEVELS):
            for panel, kind in zip(panels[2 * row : 2 * row + 2], ("gradient", "random"), strict=True):
                _panel(panel, [line for line in lines if line["level"] == level], kind, SPACES)
                panel.set_title(f"{'down the gradient' if kind == 'gradient' else 'random directions'}, loss {level:g}")
        panels[0].legend()
    stem.with_suffix(".svg").unlink()


def _panel(panel: Any, lines: list[Line], kind: str, colours: dict[str, str]) -> None:
    for space, colour in colours.items():
        label = f"{space} space"
        for line in (line for line in lines if line["space"] == space):
            for values in [line[kind]] if kind == "gradient" else line[kind]:
                relative = [value / line["loss"] for value in values]
                panel.plot(_DISTANCES, relative, color=colour, label=label, linewidth=1.3, alpha=0.8)
                label = "_"
    panel.set_ylim(0, 3)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel("distance / norm of each layer's parameters")
    panel.set_ylabel("loss / loss at 0")


def main() -> None:
    """Measure."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = images(given.data, "mnist", flat=True).train
    lines = [
        line for space in ("weight", "target") for seed in range(given.seeds) for line in measure(space, data, seed)
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"distances": _DISTANCES, "lines": lines}) + "\n")


if __name__ == "__main__":
    main()
