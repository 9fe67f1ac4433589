"""The workloads, in the groups of the page.

Budgets suit two processor cores; names that end in ``-long`` have ten epochs. Levels were chosen from AdamW's
curves, where these have been measured: the middle one is about what it has half-way. Those of the MLP of 5 layers were
raised while its runs were going on. Of CIFAR-10 the samples are those of ``cifar10_20k.npz``, which the results are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ParamSpec

from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from benchmarks.cases import mlp, paper_cnn
from benchmarks.peers import data
from benchmarks.peers.networks import Sequence, dropped, resnet, strided_cnn
from benchmarks.peers.workload import Data, Workload
from ts_lightning.amount import amount

P = ParamSpec("P")

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
_SHOWN = {"tanh": "tanh", "relu": "ReLU"}
#: samples in the training split
_SAMPLES = {"mnist": 55000, "fashion_mnist": 55000, "cifar10": 14000, "trec": 4952, "sst2": 6920, "imdb": 22500}
_DRAWN = 8000  # sequences


def _without_files(make: Callable[P, Data], *args: P.args, **kwargs: P.kwargs) -> Callable[[Path], Data]:
    """Data that need no folder."""
    return lambda root: make(*args, **kwargs)


def _deep() -> Iterator[Workload]:
    """MLPs on MNIST."""
    short = {5: 600, 30: 300, 50: 300}
    levels = {5: (0.9, 0.95, 0.97), 30: (0.85, 0.91, 0.94), 50: (0.8, 0.88, 0.92)}
    long = dict.fromkeys(short, 5500)
    for suffix, budgets, group in (("", short, "Deep networks"), ("-long", long, "Deep networks, ten epochs")):
        for depth, steps in budgets.items():
            for name in ("tanh", "relu"):
                yield Workload(
                    f"{name}-{depth}{suffix}",
                    group,
                    f"{_SHOWN[name]} MLP, {depth} layers, MNIST, {steps:,} steps",
                    partial(mlp, depth, 784, 64, 10, _ACTIVATIONS[name]),
                    partial(data.images, name="mnist", flat=True),
                    steps,
                    levels[depth] if not suffix else (0.92, 0.95, 0.97),
                    "relu" if name == "relu" else "tanh",
                    samples=_SAMPLES["mnist"],
                )


def _vision() -> Iterator[Workload]:
    """Convolutions and attention on images."""
    sets = {"cifar10": ("CIFAR-10", 3, 32), "fashion_mnist": ("Fashion-MNIST", 1, 28), "mnist": ("MNIST", 1, 28)}
    levels = {"cifar10": (0.5, 0.6, 0.7), "fashion_mnist": (0.8, 0.86, 0.9), "mnist": (0.95, 0.98, 0.99)}
    vision = partial(data.images, name="cifar10")
    for name, (shown, channels, size) in sets.items():
        read = partial(data.images, name=name)
        plain = partial(paper_cnn, channels, size)
        with_dropout = partial(dropped, plain, 0.2, nn.LeakyReLU)
        title = f"the paper's CNN, {shown}"
        for suffix, build, more in (("", plain, ""), ("-dropout", with_dropout, ", dropout 0.2")):
            known = f"cnn-{name}{suffix}", "Images", title + more
            yield Workload(*known, build, read, 1600, levels[name], "leaky_relu", samples=_SAMPLES[name])
    known, samples = ("resnet", "Images", "ResNet with batch norm, CIFAR-10"), _SAMPLES["cifar10"]
    yield Workload(*known, resnet, vision, 1600, (0.5, 0.6, 0.7), "relu", samples=samples)
    vit = partial(VisionTransformer, 32, 4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10)
    known = "vit", "Images", "vision transformer, CIFAR-10"
    yield Workload(*known, vit, vision, 1600, (0.4, 0.5, 0.55), "relu", samples=samples)


def _small_vision() -> Iterator[Workload]:
    """The same kinds of network, small enough for all contenders on two cores."""
    group = "Small networks on images"
    fashion = partial(data.images, name="fashion_mnist")
    vision = partial(data.images, name="cifar10")
    vit = partial(VisionTransformer, 32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10)
    residual = partial(resnet, (8, 16, 32), stride=2)
    for name, title, build, read, levels in (
        ("cnn-small", "CNN of 3 convolutions, Fashion-MNIST", strided_cnn, fashion, (0.82, 0.86, 0.88)),
        ("vit-small", "vision transformer of 2 blocks, CIFAR-10", vit, vision, (0.28, 0.34, 0.38)),
        ("resnet-small", "ResNet of 3 blocks with batch norm, CIFAR-10", residual, vision, (0.35, 0.44, 0.49)),
    ):
        samples = _SAMPLES["fashion_mnist" if read is fashion else "cifar10"]
        yield Workload(name, group, f"{title}, 600 steps", build, read, 600, levels, "relu", samples=samples)


def _memories() -> Iterator[Workload]:
    """Vanilla tanh RNNs: memory over many steps, pixels in a row, and products in a group."""
    group = "Long memory"
    for task, delay, spare, steps in (
        ("recall", 20, 3, 300),
        ("recall", 40, 3, 600),
        ("recall", 60, 3, 1500),
        ("recall", 100, 3, 3000),
        ("adder", 20, 5, 1000),
        ("adder", 40, 5, 3000),
    ):
        yield Workload(
            f"{task}-{delay}",
            group,
            f"{task} over {delay} steps, RNN, {steps:,} steps",
            partial(Sequence, nn.RNN, 1, delay + spare, 2, delay),
            _without_files(data.memory, task, delay),
            steps,
            (0.75, 0.9, 0.99),
            samples=_DRAWN,
        )
    yield Workload(
        "copying-50",
        group,
        "copying ten symbols over 50 steps, RNN",
        partial(Sequence, nn.RNN, 10, 128, 8, 60),
        _without_files(data.copying, 50),
        3000,
        (0.3, 0.6, 0.95),
        samples=_DRAWN,
    )
    for order, words in (("S3", 6), ("A5", 60)):
        for length in (16, 32, 64):
            yield Workload(
                f"{order.lower()}-{length}",
                "State tracking",
                f"word problem of {order}, {length} steps, RNN",
                partial(Sequence, nn.RNN, words, 128, words, 0),
                _without_files(data.words_of_group, order, length),
                2000,
                (0.5, 0.8, 0.99),
                samples=_DRAWN,
            )
    for name, features, steps in (("rows", 28, 2000), ("pixels", 1, 1000)):
        yield Workload(
            f"permuted-{name}",
            group,
            f"permuted MNIST, {amount(features, 'pixel')} a step, RNN of 128 units, {steps:,} steps",
            partial(Sequence, nn.RNN, features, 128, 10),
            partial(data.pixels, features=features),
            steps,
            (0.8, 0.9, 0.95),
            samples=_SAMPLES["mnist"],
        )


def _small() -> Iterator[Workload]:
    """Few samples: digits, tables, fifty images of a class, sentences."""
    group = "Small data"
    for name in ("tanh", "relu"):
        net = partial(mlp, 5, 64, 64, 10, _ACTIVATIONS[name])
        for train in (100, 1000):
            yield Workload(
                f"digits-{train}-{name}",
                group,
                f"{train:,} digits, {_SHOWN[name]} MLP of 5 layers",
                net,
                _without_files(data.table, "digits", train, 300),
                300,
                (0.7, 0.8, 0.85) if train == 100 else (0.9, 0.95, 0.97),
                "relu" if name == "relu" else "tanh",
                batch=50,
                samples=train,
            )
    tables = {"breast_cancer": (30, 2, 250, 150), "wine": (13, 3, 80, 48), "diabetes": (10, 1, 200, 120)}
    for table, (inputs, outputs, train, validation) in tables.items():
        yield Workload(
            table,
            group,
            f"{table.replace('_', ' ')}, ReLU MLP of 4 layers",
            partial(mlp, 4, inputs, 64, outputs, nn.ReLU),
            _without_files(data.table, table, train, validation),
            300,
            (0.2, 0.35, 0.45) if table == "diabetes" else (0.9, 0.94, 0.97),
            "relu",
            batch=40,
            regression=table == "diabetes",
            samples=train,
        )
    yield Workload(
        "cifar-500",
        group,
        "50 images a class of CIFAR-10, the paper's CNN",
        paper_cnn,
        partial(data.images, name="cifar10", per_class=50),
        500,
        (0.25, 0.32, 0.38),
        "leaky_relu",
        batch=50,
        samples=500,
    )
    for cell, kind in (("LSTM", nn.LSTM), ("RNN", nn.RNN)):
        for name, shown, classes in (("trec", "TREC", 6), ("sst2", "SST-2", 2)):
            yield Workload(
                f"{name}-{cell.lower()}",
                group,
                f"{shown}, {cell} of 100 units",
                partial(Sequence, kind, 32, 100, classes, None, 5000),
                partial(data.texts, name=name, length=30),
                1000,
                (0.6, 0.7, 0.8) if name == "trec" else (0.65, 0.72, 0.78),
                batch=50,
                samples=_SAMPLES[name],
            )


def _reviews() -> Iterator[Workload]:
    """IMDB."""
    for cell, kind in (("LSTM", nn.LSTM), ("RNN", nn.RNN)):
        yield Workload(
            f"imdb-{cell.lower()}",
            "Reviews",
            f"IMDB, the last 200 words, {cell} of 100 units",
            partial(Sequence, kind, 32, 100, 2, None, 5000),
            partial(data.texts, name="imdb", length=200),
            4500,
            (0.7, 0.8, 0.85),
            batch=40,
            samples=_SAMPLES["imdb"],
        )


WORKLOADS: dict[str, Workload] = {
    one.name: one for part in (_deep, _vision, _small_vision, _memories, _small, _reviews) for one in part()
}
