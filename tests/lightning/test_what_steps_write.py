"""What a training_step reads and writes beside tensors is as in weight space, to the last number and item.

The learning rate is zero, and the weights are those of the start, so that all losses have to be the same.
"""

import itertools
from types import SimpleNamespace

import numpy
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import Plain, data, loader, trainer
from ts_lightning import TargetSpaceConfig, TargetSpaceMixin

COUNT, TABLE, ITEMS, STATISTICS = 0, torch.zeros(2), iter(()), nn.BatchNorm1d(3)


class Options:
    """Attributes of a class that a step counts in."""

    count = 0
    rates = numpy.ones(1)


class Meter:
    """An object of the user's that adds up in an array."""

    def __init__(self):
        self.total = numpy.zeros(2)


def counted(state={"count": 0}):  # noqa: B006 (which keeps its count)
    state["count"] += 1
    return state["count"]


def more_batches():
    return DataLoader(TensorDataset(*data(24)), 4)


def an_array(m):
    m.array[0] += 1
    return m.array[0]


def an_array_in_an_object(m):
    m.meter.total += 1
    return m.meter.total[0]


def a_count(m):
    return 1 + next(m.number)


def a_generator(m):
    return next(m.decay)


def batches_of_another_loader(m):
    x, y = next(m.batches)
    return functional.cross_entropy(m.net(x), y)


def batches_in_a_dictionary(m):
    x, y = next(m.streams["more"])
    x += 1  # a batch may be written to
    return functional.cross_entropy(m.net(x), y)


def a_variable(m):
    global COUNT
    COUNT += 1
    return COUNT


def a_tensor(m):
    TABLE.add_(1)
    return TABLE[0]


def an_iterator_of_the_file(m):
    return next(ITEMS)


def a_norm_of_the_file(m):
    return STATISTICS(m.seen[-1]).mean() + STATISTICS.running_mean.sum()


def a_class(m):
    Options.count += 1
    Options.rates *= 0.9
    return Options.count * float(Options.rates[0])


def a_default(m):
    return counted()


def the_trainer(m):
    m.trainer.steps_seen = getattr(m.trainer, "steps_seen", 0) + 1
    return m.trainer.steps_seen


def the_end(m):
    m.trainer.should_stop = len(m.seen[-1]) > 16  # as the reference batch has
    return 1


def the_datamodule(m):
    m.trainer.datamodule.steps += 1
    return m.trainer.datamodule.steps


WAYS = [
    an_array,
    an_array_in_an_object,
    a_count,
    a_generator,
    batches_of_another_loader,
    batches_in_a_dictionary,
    a_variable,
    a_tensor,
    an_iterator_of_the_file,
    a_norm_of_the_file,
    a_class,
    a_default,
    the_trainer,
    the_end,
    the_datamodule,
]


class Data(LightningDataModule):
    steps = 0

    def train_dataloader(self):
        return loader(shuffle=True)


class Stepping(TargetSpaceMixin, Plain):
    def __init__(self, config, inputs):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        self.inputs, self.target_space = inputs, config
        self.array, self.meter = numpy.zeros(2), Meter()
        self.number, self.decay = itertools.count(), (0.9**n for n in itertools.count())
        self.batches, self.streams = itertools.cycle(more_batches()), {"more": iter(more_batches())}

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0])
        x = batch[0] if self.inputs == "plain" else batch[0] * 2 - 1  # for which training_step itself is run
        loss = functional.cross_entropy(self(x), batch[1]) * self.way()
        self.losses.append(float(loss))
        return loss


@pytest.mark.parametrize("inputs", ["plain", "changed"])
@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_weight_space(way, inputs):
    global COUNT, TABLE, ITEMS, STATISTICS
    found = []
    for config in (None, TargetSpaceConfig(init="weights")):
        COUNT, TABLE, ITEMS, STATISTICS = 0, torch.zeros(2), iter(range(99)), nn.BatchNorm1d(3)
        Options.count, Options.rates = 0, numpy.ones(1)
        counted.__defaults__[0]["count"] = 0
        torch.manual_seed(0)
        model = type("Stepping", (Stepping,), {"way": way})(config, inputs)
        fitting = trainer(max_epochs=1)
        fitting.fit(model, datamodule=Data())
        found.append(SimpleNamespace(losses=model.losses, array=model.array.tolist(), total=model.meter.total.tolist()))
    assert len(found[0].losses) == 4
    assert vars(found[0]) == vars(found[1])
