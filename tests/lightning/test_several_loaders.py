"""The reference batch of several loaders at once: equally many samples of each."""

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset

from tests.support.fits import CONFIG, Lit, Plain, build, data, fit, loader
from ts_lightning import TargetSpaceMixin
from ts_lightning.lightning.training_data import each


class Stream(IterableDataset):
    """The samples, to be iterated alone."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return zip(*data(self.rows), strict=True)


def collection(loaders):
    return loaders.iterables if isinstance(loaders, CombinedLoader) else loaders


@pytest.mark.parametrize(
    "several",
    [
        lambda: {"a": loader(), "b": loader(8, rows=24)},
        lambda: [loader(), loader(8, shuffle=True, rows=24)],
        lambda: CombinedLoader({"a": loader(), "b": [loader(8), loader(4)]}, "min_size"),
        lambda: {"a": loader(), "b": DataLoader(Stream(24), 8)},
        lambda: CombinedLoader({"a": DataLoader(Stream(64), 16), "b": loader(8, rows=24)}, "min_size"),
    ],
    ids=["dict", "list", "nested", "with a stream", "a stream first"],
)
def test_of_several_loaders_the_reference_batch_has_equally_many_samples_each(several):
    seen = []

    class Both(Plain):
        def training_step(self, batch, batch_idx):
            first, *others = each(collection(several()), batch)
            seen.append([pair[0].clone() for pair in (first, *others)])
            return self.loss(first) + sum(self.loss(other) for other in others)

    def order(kind):
        seen.clear()
        torch.manual_seed(1)
        model = build(kind)
        fit(model, several())
        return model, list(seen)

    model, target = order(type("Solved", (TargetSpaceMixin, Both), {"target_space": CONFIG}))
    _, weight = order(Both)
    for step, expected in zip(target[-len(weight) :], weight, strict=True):  # behind a look at training_step
        assert all(torch.equal(x, y) for x, y in zip(step, expected, strict=True))
    parts = list(each(collection(several()), model.target_space_engine.state_dict()["reference"]))
    rows = [64, 24] if len(parts) == 2 else [64, 64, 64]
    least = min(CONFIG.reference.size, *rows)
    for (x, y), count in zip(parts, rows, strict=True):
        assert torch.equal(x, data(count)[0][:least])
        assert torch.equal(y, data(count)[1][:least])


def test_the_loader_of_a_choice_of_ones_own():
    loaders = {"a": loader(), "b": loader()}

    class Chosen(Lit):
        def training_step(self, batch, batch_idx):
            return self.loss(batch["a"]) + self.loss(batch["b"])

        def reference_batch(self):
            return next(iter(loaders["a"]))

    fit(build(Chosen), loaders)


@pytest.mark.parametrize("loaders", [[loader(), loader()], {"a": loader(), "b": loader()}, loader()])
def test_loaders_one_behind_the_other_are_refused_by_lightning(loaders, monkeypatch):
    """The reference batch, of all of them at once, was refused first, as one that ``training_step`` cannot take."""
    monkeypatch.setattr(Lit, "reference_batch", lambda self: pytest.fail("taken"))
    with pytest.raises(ValueError, match="does not support the `CombinedLoader"):
        fit(build(), CombinedLoader(loaders, "sequential"))
