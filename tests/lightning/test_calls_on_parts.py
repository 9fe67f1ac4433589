"""A training step that calls the module on parts of its batch: layers are solved from the rows of all parts."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import trainer
from ts_lightning import TargetSpaceMixin


class Routed(nn.Module):
    """Each sample goes to one of two layers, and all of them to one."""

    def __init__(self):
        super().__init__()
        self.unused, self.used, self.out = nn.Linear(12, 5), nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = x.flatten(1)
        chosen = x[:, 0] > 100
        y = x.new_zeros(len(x), 5)
        y[chosen], y[~chosen] = self.unused(x[chosen]), self.used(x[~chosen])
        return self.out(y.tanh())


NETS = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)),
    "convolutional": lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(10, 2)),
    "routed": Routed,
    "normalised": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)),
}


def halves(call, x):
    return torch.cat([call(x[: len(x) // 2]), call(x[len(x) // 2 :])])


def unequal(call, x):
    return torch.cat([call(x[:3]), call(x[3:])])


def chunks(call, x):
    return torch.cat([call(part) for part in x.split(6)])


def masked(call, x):
    chosen = x[:, 0, 0] > 0
    return torch.cat([call(x[chosen]), call(x[~chosen])])


def whole(call, x):
    return call(x)


def with_none(call, x):
    return torch.cat([call(x[:0]), call(x[:9]), call(x[9:])])


def flipped(call, x):
    return torch.cat([call(x[:4]), call(x[4:].flip(2))])


def repeated(call, x):
    return torch.cat([call(x[:4]), call(x[:4]), call(x[8:])])


def twice(call, x):
    return call(x) + call(x.flip(0))


def weights(form, net="dense"):
    """The weights behind two steps on the whole data, and what is solved, by name."""

    class Parts(TargetSpaceMixin, LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = NETS[net]()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return cross_entropy(form(self, batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Parts().double()
    x = torch.randn(24, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trainer(max_epochs=2).fit(model, DataLoader(TensorDataset(x, torch.zeros(24, dtype=torch.long)), 24))
    return nn.utils.parameters_to_vector(model.parameters()), model.target_space_engine.targets


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("form", [halves, unequal, chunks, masked, with_none])
def test_a_step_in_parts_equals_one_of_the_whole(form, net):
    """They were solved from the first part alone, without a word."""
    found, expected = weights(form, net)[0], weights(whole, net)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("form", "rows"), [(flipped, 4), (repeated, 4)])
def test_other_rows_than_those_of_the_whole_are_those_of_the_first_call(form, rows):
    assert len(weights(form)[1]["net.1"]) == rows


def test_parts_of_inputs_that_the_step_makes_are_named(recwarn):
    def centred(call, x):
        return halves(call, x - x.mean(0))

    assert len(weights(centred)[1]["net.1"]) == 12
    said = [str(one.message) for one in recwarn if "on parts of its batch" in str(one.message)]
    assert len(said) == 1
    assert "training_step calls net.1, net.3 on parts of its batch, the first of 12 of 24 reference samples" in said[0]


@pytest.mark.parametrize("form", [whole, chunks, twice])
def test_nothing_is_said_of_other_calls(form, recwarn):
    weights(form)
    assert not any("on parts of its batch" in str(one.message) for one in recwarn)
