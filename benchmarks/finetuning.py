"""Fine-tuning in both spaces: a network trained on five classes goes on with the other five.

    python -m benchmarks.finetuning                     # digits: an MLP and a CNN
    python -m benchmarks.finetuning --fashion FOLDER    # Fashion-MNIST: a CNN; FOLDER holds FashionMNIST/raw

Data: the digits of scikit-learn, 8 x 8, or Fashion-MNIST, 28 x 28. A network is trained in weight space on all images
of the classes 0 to 4 (Adam at 0.002, 300 steps of 100 images). It is given a new readout, and a few images of the
classes 5 to 9, 20 of each digit, 100 of each piece of clothing; others are for validation and for test. Each way is
trained for 300 steps of Adam on batches of 20, with learning rates from 0.0003 to 0.03, of which the best by validation
accuracy (the mean over seeds and over the accuracies at every tenth step) is shown with its test accuracy. Three seeds,
for network, order of data and choice of images.

The ways: weight space; the same from scratch; target space around the given weights (``init="weights"``, the new
readout too) with ridges 0.1, 1 (the default) and 10, the larger of which keep more of W0; ``init="auto"``, which finds
the given layers itself; and from scratch (``init="normalised"``). The reference batch is of 100 training images. Times
are of training alone, in processor time on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.recipes.data.sources import load

SEEDS, STEPS, BATCH, REFERENCE = 3, 300, 20, 100
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
POINTS = (10, 30, 100, 300)  # steps
EVERY = 10  # steps between two measurements
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Images of ten classes, and how few of the last five there are.

    Args:
        x: images (samples, channels, height, width), about -1 to 1.
        y: classes.
        each: training images of each of the classes 5 to 9.
        held_out: images for validation, and for test.
        seconds: at which accuracies are shown.
        networks: by name.
    """

    x: Tensor
    y: Tensor
    each: int
    held_out: tuple[int, int]
    seconds: tuple[float, ...]
    networks: dict[str, Callable[[], nn.Sequential]]

    def splits(self, seed: int) -> dict[str, Split]:
        """Images and classes: "before" of the classes 0 to 4; "train", "validation" and "test" of 5 to 9."""
        x, y = self.x, self.y
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        order = order[y[order] >= 5]
        train = torch.cat([order[y[order] == kind][: self.each] for kind in range(5, 10)])
        train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]
        rest = order[~torch.isin(order, train)]
        cut, end = self.held_out[0], sum(self.held_out)
        parts = {"train": train, "validation": rest[:cut], "test": rest[cut:end]}
        found = {name: (x[index], y[index] - 5) for name, index in parts.items()}
        return {**found, "before": (x[y < 5], y[y < 5])}


def mlp() -> nn.Sequential:
    """For digits."""
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 5))


def cnn(stride: int, width: int, inputs: int) -> nn.Sequential:
    """Three convolutions, the first of this stride and width, the others twice as wide, and a readout."""
    layers = [nn.Conv2d(1, width, 3, stride, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(inputs, 5)]
    return nn.Sequential(*layers)


def digits() -> Task:
    """The digits of scikit-learn."""
    images = load("digits", Path(), None, False)
    x = torch.cat([images.x_train, images.x_test]).float()
    y = torch.cat([images.y_train, images.y_test])
    networks = {"MLP, 4 layers": mlp, "CNN, 4 layers": lambda: cnn(1, 16, 128)}
    return Task(2 * x / x.max() - 1, y, 20, (200, 1000), (0.1, 0.3, 1.0), networks)


def fashion(root: Path) -> Task:
    """Fashion-MNIST."""
    images = load("fashion_mnist", root, None, False)
    networks = {"CNN, 4 layers": lambda: cnn(2, 8, 256)}
    x = images.x_train.float() / 127.5 - 1
    return Task(x, images.y_train, 100, (500, 2000), (0.3, 1.0, 3.0), networks)


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


def trained(make: Callable[[], nn.Sequential], seed: int, data: Split) -> nn.Sequential:
    """A network trained on the first classes, with a new readout."""
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
    model: nn.Sequential, config: TargetSpaceConfig | None, rate: float, task: Task, data: dict[str, Split], seed: int
) -> list[tuple[float, float, float]]:
    """Seconds, validation and test accuracy at every tenth step."""
    space = None if config is None else TargetSpace(model, data["train"][0][:REFERENCE], config)
    optimizer = torch.optim.Adam(model.parameters() if space is None else space.parameters(), rate)
    found, seconds = [], 0.0
    for step, (x, y) in enumerate(batches(data["train"], STEPS, BATCH, seed), 1):
        start = time.process_time()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        if space is not None:
            space.pullback()
        optimizer.step()
        if space is not None:
            space.solve()
        seconds += time.process_time() - start
        if step % EVERY == 0:
            found.append((seconds, accuracy(model, data["validation"]), accuracy(model, data["test"])))
    return found


def measured(task: Task, network: str, given: list[nn.Sequential], way: str) -> str:
    """A row of the table; ``given`` are the networks trained on the first classes, by seed."""
    known, config = WAYS[way]
    results: dict[float, list[list[tuple[float, float, float]]]] = {rate: [] for rate in RATES}
    for seed in range(SEEDS):
        data = task.splits(seed)
        if known:
            model = given[seed]
        else:
            torch.manual_seed(100 + seed)
            model = task.networks[network]()
        for rate in RATES:
            results[rate].append(tune(deepcopy(model), config, rate, task, data, seed))
    validation = {
        rate: sum(p[1] for run in runs for p in run) / (SEEDS * len(runs[0])) for rate, runs in results.items()
    }
    best = max(RATES, key=lambda rate: validation[rate])
    runs = results[best]
    at_steps = [100 * sum(run[step // EVERY - 1][2] for run in runs) / SEEDS for step in POINTS]
    at_seconds = [[[p[2] for p in run if p[0] <= second] for run in runs] for second in task.seconds]
    by_second = [100 * sum(p[-1] for p in each) / SEEDS if all(each) else None for each in at_seconds]
    each = 1000 * sum(run[-1][0] for run in runs) / SEEDS / STEPS
    cells = [f"{value:.1f}" for value in at_steps] + ["" if value is None else f"{value:.1f}" for value in by_second]
    return f"| {network} | {way} | {best} | {' | '.join(cells)} | {each:.1f} |"


def main() -> None:
    """Print the table of a task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="the folder of FashionMNIST/raw; default: the digits")
    folder = parser.parse_args().fashion
    task = digits() if folder is None else fashion(folder)
    torch.set_num_threads(1)
    steps = " | ".join(f"{step} steps" for step in POINTS)
    print(f"| network | way | rate | {steps} | {' | '.join(f'{second} s' for second in task.seconds)} | ms a step |")
    print("|---" * (4 + len(POINTS) + len(task.seconds)) + "|")
    for network in task.networks:
        given = [trained(task.networks[network], seed, task.splits(seed)["before"]) for seed in range(SEEDS)]
        for way in WAYS:
            print(measured(task, network, given, way), flush=True)


if __name__ == "__main__":
    main()
