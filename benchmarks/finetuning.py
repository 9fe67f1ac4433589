"""Fine-tuning in both spaces: a network trained on five digits goes on with the other five.

    python -m benchmarks.finetuning

Data: the digits of scikit-learn, 8 x 8. A network is trained in weight space on all images of the digits 0 to 4 (Adam
at 0.002, 300 steps). It is given a new readout, and 100 images of the digits 5 to 9, 20 of each; 200 others are for
validation, the rest for test. Each way is trained for 300 steps of Adam on batches of 20, with learning rates from
0.0003 to 0.03, of which the best by validation accuracy (the mean over seeds and over the accuracies at every tenth
step) is shown with its test accuracy. Three seeds, for network, order of data and choice of images.

The ways: weight space; the same from scratch; target space around the given weights (``init="weights"``, the new
readout too) with ridges 0.1, 1 (the default) and 10, the larger of which keep more of W0; ``init="auto"``, which finds
the given layers itself; and from scratch (``init="normalised"``). The reference batch is the 100 images. Times are of
training alone, on one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning import TargetSpace, TargetSpaceConfig

SEEDS, STEPS, BATCH = 3, 300, 20
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
POINTS = (10, 30, 100, 300)  # steps
SECONDS = (0.1, 0.3, 1.0)
Split = tuple[Tensor, Tensor]


def mlp() -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 5))


def cnn() -> nn.Sequential:
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {"MLP, 4 layers": mlp, "CNN, 4 layers": cnn}
#: name: whether the given weights are taken, and the settings of target space; None for weight space
WAYS: dict[str, tuple[bool, TargetSpaceConfig | None]] = {
    "weight space": (True, None),
    'target space, `init="weights"`, ridge 0.1': (True, TargetSpaceConfig(init="weights", ridge=0.1)),
    'target space, `init="weights"`': (True, TargetSpaceConfig(init="weights")),
    'target space, `init="weights"`, ridge 10': (True, TargetSpaceConfig(init="weights", ridge=10.0)),
    'target space, `init="auto"`': (True, TargetSpaceConfig()),
    "weight space, from scratch": (False, None),
    "target space, from scratch": (False, TargetSpaceConfig(init="normalised")),
}


def splits(seed: int) -> dict[str, Split]:
    """Images and classes: "before" of the digits 0 to 4; "train", "validation" and "test" of 5 to 9."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    y = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    order = order[y[order] >= 5]
    train = torch.cat([order[y[order] == digit][:BATCH] for digit in range(5, 10)])
    rest = order[~torch.isin(order, train)]
    parts = {"train": train, "validation": rest[:200], "test": rest[200:]}
    found = {name: (x[index], y[index] - 5) for name, index in parts.items()}
    return {**found, "before": (x[y < 5], y[y < 5])}


def trained(make: Callable[[], nn.Sequential], seed: int, data: Split) -> nn.Sequential:
    """A network trained on the first digits, with a new readout."""
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    for batch in batches(data, 300, 100, seed):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    readout = model[-1]
    model[-1] = nn.Linear(readout.in_features, 5)
    return model


def batches(data: Split, steps: int, size: int, seed: int) -> list[Split]:
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(data[0]), (size,), generator=generator) for _ in range(steps)]
    return [(data[0][draw], data[1][draw]) for draw in draws]


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    return float((model(data[0]).argmax(-1) == data[1]).double().mean())


def tune(
    model: nn.Sequential, config: TargetSpaceConfig | None, rate: float, data: dict[str, Split], seed: int
) -> list[tuple[float, float, float]]:
    """Seconds, validation and test accuracy at every point."""
    space = None if config is None else TargetSpace(model, data["train"][0], config)
    optimizer = torch.optim.Adam(model.parameters() if space is None else space.parameters(), rate)
    found, seconds = [], 0.0
    for step, (x, y) in enumerate(batches(data["train"], STEPS, BATCH, seed), 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        if space is not None:
            space.pullback()
        optimizer.step()
        if space is not None:
            space.solve()
        seconds += time.perf_counter() - start
        if step in POINTS or step % 10 == 0:
            found.append((seconds, accuracy(model, data["validation"]), accuracy(model, data["test"])))
    return found


def measured(network: str, way: str) -> str:
    """A row of the table."""
    known, config = WAYS[way]
    results: dict[float, list[list[tuple[float, float, float]]]] = {rate: [] for rate in RATES}
    for seed in range(SEEDS):
        data = splits(seed)
        if known:
            model = trained(NETWORKS[network], seed, data["before"])
        else:
            torch.manual_seed(100 + seed)
            model = NETWORKS[network]()
        for rate in RATES:
            results[rate].append(tune(deepcopy(model), config, rate, data, seed))
    validation = {
        rate: sum(p[1] for run in runs for p in run) / (SEEDS * len(runs[0])) for rate, runs in results.items()
    }
    best = max(RATES, key=lambda rate: validation[rate])
    runs = results[best]
    at_steps = [100 * sum(run[step // 10 - 1][2] for run in runs) / SEEDS for step in POINTS]
    at_seconds = [[[p[2] for p in run if p[0] <= second] for run in runs] for second in SECONDS]
    by_second = [100 * sum(p[-1] for p in each) / SEEDS if all(each) else None for each in at_seconds]
    each = 1000 * sum(run[-1][0] for run in runs) / SEEDS / STEPS
    cells = [f"{value:.1f}" for value in at_steps] + ["" if value is None else f"{value:.1f}" for value in by_second]
    return f"| {network} | {way} | {best} | {' | '.join(cells)} | {each:.1f} |"


def main() -> None:
    torch.set_num_threads(1)
    steps = " | ".join(f"{step} steps" for step in POINTS)
    print(f"| network | way | rate | {steps} | {' | '.join(f'{second} s' for second in SECONDS)} | ms a step |")
    print("|---" * (4 + len(POINTS) + len(SECONDS)) + "|")
    for network in NETWORKS:
        for way in WAYS:
            print(measured(network, way), flush=True)


if __name__ == "__main__":
    sys.exit(main())
