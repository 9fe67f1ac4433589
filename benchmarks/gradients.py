"""Exploding and vanishing gradients in both spaces: from layer to layer, from step to step, and where parameters move.

    python benchmarks/gradients.py --data FOLDER   # what results/gradients.jsonl lacks, the figure, the table
    python benchmarks/gradients.py --draw          # docs/evidence/gradients.png and the table of docs/claims.md alone

Gradients of weights and of targets have different units. What is compared is the *relative gradient* of a layer,
|g| |p| / loss with the layer's parameters p (weight and bias, or targets): how much the loss changes, as a share of
itself, for a relative change of the layer, along the gradient. It does not depend on the unit of p. From it come

- the spread over layers: the largest layer's over the smallest one's;
- the tail: the largest over the median of the whole network's relative gradient (root of the sum of squares over
  layers), over mini-batches, and over random changes of a tenth of every layer's norm; large where gradients explode;
- for a recurrent network the gradient with respect to its input at each step: how far back the network hears.

MLPs of 10, 30 and 100 layers, and a vanilla RNN that reads MNIST in 28, 98 and 196 steps and answers at the last one,
at the start and after some steps of Adam.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp
from benchmarks.pages import options
from benchmarks.peers.data import images
from benchmarks.peers.networks import Sequence as Recurrent
from benchmarks.peers.results import Results
from benchmarks.peers.starts import start
from benchmarks.peers.workload import Split, batches
from benchmarks.surface import Groups, loss_along
from ts_lightning import TargetSpace
from ts_lightning.lightning.reference_data import reference_size

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gradients.jsonl"
STEPS, DRAWS = 30, 6  # of training; mini-batches and random changes
_WIDTH, _BATCH, _SAMPLES, _DISTANCE = 64, 100, 5000, 0.1
SPACES = {"usual": "weight, usual start", "good": "weight, good start", "target": "target"}

Line = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network, how its inputs are read in steps (None: at once), and Adam's learning rate in weight space."""

    title: str
    build: Callable[[], nn.Module]
    steps: int | None = None
    activation: Literal["tanh", "relu"] = "tanh"
    lr: float = 0.001


def _networks() -> dict[str, Network]:
    found = {}
    kinds: tuple[tuple[Literal["tanh", "relu"], str, type[nn.Module]], ...]
    kinds = (("tanh", "tanh", nn.Tanh), ("relu", "ReLU", nn.ReLU))
    for act, shown, module in kinds:
        for depth in (10, 30, 100):
            build: Callable[[], nn.Module] = partial(mlp, depth, 784, _WIDTH, 10, module)
            lr = 0.0003 if depth > 30 else 0.001
            found[f"{act}-{depth}"] = Network(f"{shown} MLP, {depth} layers", build, None, act, lr)
    for steps in (28, 98, 196):
        build = partial(Recurrent, nn.RNN, 784 // steps, _WIDTH, 10)
        found[f"rnn-{steps}"] = Network(f"RNN, {steps} steps", build, steps)
    return found


NETWORKS = _networks()


def _data(root: Path, network: Network) -> Split:
    """MNIST's first images; in steps, the pixels in a fixed random order, so that no step is empty."""
    data = images(root, "mnist", flat=True).train.part(0, _SAMPLES)
    if network.steps is None:
        return data
    order = torch.randperm(784, generator=torch.Generator().manual_seed(0))
    return Split(data.x[:, order].view(len(data), network.steps, -1), data.y)


def _start(model: nn.Module, network: Network, *, good: bool, x: Tensor) -> None:
    """Usual: Glorot's for tanh, He's for ReLU, PyTorch's for RNNs. Good: orthogonal, in MLPs scaled by the data."""
    recurrent = network.steps is not None
    if good:
        start(model, "orthogonal" if recurrent else "data", network.activation, x)
    elif not recurrent:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                (nn.init.xavier_normal_ if network.activation == "tanh" else nn.init.kaiming_normal_)(layer.weight)
                nn.init.zeros_(layer.bias)


class Probe:
    """A network in a space, its gradients, and Adam.

    Args:
        network: what is trained.
        space: a key of ``SPACES``.
        data: training samples.
        seed: of weights and targets.
    """

    def __init__(self, network: Network, space: str, data: Split, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = network.build()
        layers = [m for m in self.model.modules() if isinstance(m, (nn.Linear, nn.RNNBase))]
        self.weights: Groups = [list(layer.parameters()) for layer in layers]
        self.engine: TargetSpace | None = None
        if space == "target":
            self.engine = TargetSpace(self.model, data.x[: reference_size(self.model, "auto")])
            self.groups: Groups = [[target] for target in self.engine.targets.values()]
        else:
            _start(self.model, network, good=space == "good", x=data.x)
            self.groups = self.weights
        trained = [p for group in self.groups for p in group]
        self.optimizer = torch.optim.Adam(trained, network.lr if self.engine is None else 0.002)
        self.loss = math.nan
        self.solved: list[float] = []  # the relative gradients of the weights, before they are pulled back

    def backward(self, x: Tensor, y: Tensor) -> list[float]:
        """The relative gradient of each layer on a mini-batch, with weights solved from the present targets."""
        self.optimizer.zero_grad()
        if self.engine is not None:
            self.engine.solve()
        loss = functional.cross_entropy(self.model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss = float(loss.detach())
        self.solved = _relative(self.weights, self.loss)
        if self.engine is not None:
            self.engine.pullback()
        return _relative(self.groups, self.loss)


def _relative(groups: Groups, loss: float) -> list[float]:
    """|g| |p| / loss of each group."""

    def norm(tensors: Sequence[Tensor]) -> float:
        return math.hypot(*(float(t.detach().norm()) for t in tensors))

    return [norm([p.grad for p in group if p.grad is not None]) * norm(group) / loss for group in groups]


def look(probe: Probe, data: Split, seed: int, draws: int) -> Line:
    """The gradients of a probe as it is: by layer, by step of its input, over mini-batches and random changes."""
    samples = batches(data, _BATCH, seed + 1)
    trained, solved, losses = [], [], []
    for _ in range(draws):
        trained.append(probe.backward(*next(samples)))
        solved.append(probe.solved)
        losses.append(probe.loss)
    found: Line = {
        "loss": statistics.median(losses),
        "layers": [statistics.median(some) for some in zip(*trained, strict=True)],
        "solved": [statistics.median(some) for some in zip(*solved, strict=True)],
        "batches": [math.hypot(*some) for some in trained],
    }
    x, y = next(samples)
    if x.dim() == 3:
        x.requires_grad_()
        probe.backward(x, y)
        assert x.grad is not None
        found["inputs"] = x.grad.norm(dim=2).mean(0).tolist()
        x = x.detach()

    def norm() -> float:
        return math.hypot(*probe.backward(x, y))

    generator = torch.Generator().manual_seed(seed)
    found["changes"] = []
    for _ in range(draws):
        direction = [[torch.randn(p.shape, generator=generator) for p in group] for group in probe.groups]
        found["changes"] += loss_along(probe.groups, direction, norm, [_DISTANCE])
    return found


def measure(name: str, space: str, data: Split, seed: int, steps: int = STEPS, draws: int = DRAWS) -> list[Line]:
    """The gradients at the start and after training."""
    probe = Probe(NETWORKS[name], space, data, seed)
    samples = batches(data, _BATCH, seed)
    lines = []
    for stage in (0, steps):
        for _ in range(stage):
            probe.backward(*next(samples))
            probe.optimizer.step()
        lines.append({"network": name, "space": space, "seed": seed, "step": stage, **look(probe, data, seed, draws)})
    return lines


def _rounded(value: Any) -> Any:
    """Numbers of four digits, so that the file is small."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, draw, and fill the page."""
    parser = options(__doc__, draws=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = Results(RESULTS)
    if not given.draw:
        have = {(line["network"], line["space"], line["seed"]) for line in results.lines}
        for name, network in NETWORKS.items():
            data = _data(given.data, network)
            for space in SPACES:
                for seed in range(given.seeds):
                    if (name, space, seed) not in have:
                        for line in measure(name, space, data, seed):
                            results.add({key: _rounded(value) for key, value in line.items()})
                        print(name, space, seed, flush=True)
    from benchmarks.gradients_report import write

    write(results.lines)


if __name__ == "__main__":
    main()
