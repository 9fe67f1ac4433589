"""The data of the workloads, each in a training, a validation and a test split that no seed changes.

Images and texts are read from the folder of data sets, tables and digits come with scikit-learn, sequences are drawn.
Validation samples are the last of the training samples, unless a set has its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.workload import Data, Split
from ts_lightning.data import ImagesDataModule
from ts_lightning.recipes.data.arrays import ImageSet
from ts_lightning.recipes.data.bits import Task, bits
from ts_lightning.recipes.data.images import Source

_SEEDS = (1, 3, 2)  # of training, validation and test sequences
_SEQUENCES = (8000, 1000, 1000)


def image_set(root: Path, name: str, cifar: Path | None) -> ImageSet:
    """A data set of torchvision in a folder, or scikit-learn's digits; CIFAR-10 from an archive where one is given."""
    if name == "digits":
        return ImagesDataModule("digits").images
    if name == "cifar10" and cifar is not None:
        return ImagesDataModule("npz", file=cifar).images
    return ImagesDataModule(cast("Source", name), root).images


@cache
def images(root: Path, name: str, *, flat: bool = False, per_class: int | None = None) -> Data:
    """MNIST, Fashion-MNIST or CIFAR-10, pixels in 0 ... 1, (N, C, H, W) or flat.

    CIFAR-10 is read from ``cifar10_20k.npz``, 16,000 and 4,000 images, where this file is.
    """
    archive = root / "cifar10_20k.npz"
    found = image_set(root, name, archive if archive.exists() else None)
    x, x_test = (a.float() / 255 for a in (found.x_train, found.x_test))
    if flat:
        x, x_test = x.flatten(1), x_test.flatten(1)
    data = _held_out(Split(x, found.y_train), 2000 if name == "cifar10" else 5000, Split(x_test, found.y_test))
    if per_class is None:
        return data
    y = data.train.y
    chosen = torch.cat([(y == label).nonzero().flatten()[:per_class] for label in range(found.classes)])
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return Data(Split(data.train.x[chosen], y[chosen]), data.validation, data.test)


def pixels(root: Path, features: int) -> Data:
    """MNIST's pixels in one fixed random order, (N, 784 / features, features)."""
    data = images(root, "mnist", flat=True)
    order = torch.randperm(784, generator=torch.Generator().manual_seed(0))
    return Data(
        *(Split(s.x[:, order].view(len(s), -1, features), s.y) for s in (data.train, data.validation, data.test))
    )


@cache
def table(name: Literal["digits", "breast_cancer", "wine", "diabetes"], train: int, validation: int) -> Data:
    """A set of scikit-learn in a fixed random order; columns and numeric answers standardised by the training split."""
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))
    x, y = torch.from_numpy(found.data).float()[order], torch.from_numpy(found.target)[order]
    x = x / 16 if name == "digits" else (x - x[:train].mean(0)) / x[:train].std(0)
    y = ((y - y[:train].mean()) / y[:train].std()).float() if y.is_floating_point() else y.long()
    stop = train + validation
    whole = Split(x, y)
    return Data(whole.part(0, train), whole.part(train, stop), whole.part(stop, len(whole)))


@cache
def memory(task: Task, delay: int) -> Data:
    """Bit sequences of the recipe rnn_bits."""
    return Data(*(Split(*bits(task, delay, n, seed)) for n, seed in zip(_SEQUENCES, _SEEDS, strict=True)))


@cache
def copying(blank: int, symbols: int = 8, length: int = 10) -> Data:
    """Ten symbols, blank steps, then a cue at which they are to be said again; inputs one-hot."""

    def draw(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        said = torch.randint(symbols, (count, length), generator=generator)
        x = torch.full((count, 2 * length + blank), symbols)
        x[:, :length] = said
        x[:, length + blank] = symbols + 1
        return Split(functional.one_hot(x, symbols + 2).float(), said)

    return Data(*(draw(n, seed) for n, seed in zip(_SEQUENCES, _SEEDS, strict=True)))


@cache
def words_of_group(group: Literal["S3", "A5"], length: int) -> Data:
    """Words of a group's elements, one-hot, and their product up to every step; the test words are twice as long."""
    product = _products(group)
    order = len(product)

    def draw(count: int, steps: int, seed: int) -> Split:
        x = torch.randint(order, (count, steps), generator=torch.Generator().manual_seed(seed))
        y = x.clone()
        for step in range(1, steps):
            y[:, step] = product[y[:, step - 1], x[:, step]]
        return Split(functional.one_hot(x, order).float(), y)

    lengths = (length, length, 2 * length)
    return Data(*(draw(n, steps, seed) for n, steps, seed in zip(_SEQUENCES, lengths, _SEEDS, strict=True)))


def _products(group: str) -> Tensor:
    """The multiplication table (elements, elements) of all permutations of three, or the even ones of five."""
    from itertools import permutations

    size = int(group[1:])
    elements = list(permutations(range(size)))
    if group.startswith("A"):
        signs = [sum(a > b for i, a in enumerate(p) for b in p[i:]) % 2 for p in elements]
        elements = [p for p, sign in zip(elements, signs, strict=True) if sign == 0]
    number = {p: i for i, p in enumerate(elements)}
    return torch.tensor([[number[tuple(b[i] for i in a)] for b in elements] for a in elements])


@cache
def texts(root: Path, name: Literal["trec", "sst2", "imdb"], length: int, words: int = 5000) -> Data:
    """Texts as the numbers of their last words, padded at the beginning; the vocabulary is of the training texts."""
    import pyarrow.parquet as pq

    from ts_lightning.recipes.data.tokens import TextEncoder

    def read(split: str) -> tuple[list[str], Tensor]:
        found = pq.read_table(root / f"{name}_{split}.parquet")
        return found["text"].to_pylist(), torch.tensor(found["label"].to_pylist())

    x, y = read("train")
    encoder = TextEncoder.learn(x, words, length)

    def encoded(some: list[str], labels: Tensor) -> Split:
        return Split(encoder(some).ids.long(), labels)

    train, test = encoded(x, y), encoded(*read("test"))
    if name == "sst2":
        return Data(train, encoded(*read("valid")), test)
    return _held_out(train, 500 if name == "trec" else 2500, test)


def _held_out(train: Split, count: int, test: Split) -> Data:
    """The last ``count`` training samples are for validation."""
    stop = len(train) - count
    return Data(train.part(0, stop), train.part(stop, len(train)), test)
