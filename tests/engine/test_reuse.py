"""A layer that one forward uses several times: solved at its first use, run with the solved weights at the others."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_model, close, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


class Siamese(nn.Module):
    """One encoder for both halves of the features."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
        self.readout = nn.Linear(4, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.encoder(x[..., :3]) * self.encoder(x[..., 3:])))


class Depth(nn.Module):
    """One layer again and again, its own output as its input."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.readout = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        for _ in range(3):
            h = h + torch.tanh(self.block(h))
        return self.readout(h)


class Levels(nn.Module):
    """A detection head over levels of an image, of other sizes at every use."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        h = torch.tanh(self.stem(x.unflatten(-1, (1, 2, 3))))
        return sum(self.head(level).mean((2, 3)) for level in (h, functional.avg_pool2d(h, (1, 2))))


class Recurrent(nn.Module):
    """A recurrent layer on the sequences and on their reverse; ``kind`` is its class."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.readout = kind(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        x = x.unflatten(-1, (3, 2))
        return self.readout(self.rnn(x)[0][:, -1] + self.rnn(x.flip(1))[0][:, -1])


class Attending(nn.Module):
    """One attention for a sequence with itself and then with another."""

    def __init__(self):
        super().__init__()
        self.attention, self.readout = nn.MultiheadAttention(2, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x):
        x = x.unflatten(-1, (3, 2))
        h = self.attention(x, x, x)[0]
        return self.readout((self.attention(h, x, x)[0] + h).mean(1))


NETS = {
    "siamese": Siamese,
    "shared depth": Depth,
    "head over levels": Levels,
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": Attending,
}


@pytest.mark.parametrize("rows", ["auto", 12])
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("net", NETS)
def test_gradients_predict_finite_differences(net, method, rows):
    if method == "ocu" and rows != "auto":
        pytest.skip("targets are passed on from all rows")
    torch.manual_seed(0)
    model, generator = NETS[net]().double(), torch.Generator().manual_seed(0)
    reference, x = torch.randn(20, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    check_model(model, reference, x, generator, method=method, reference=ReferenceConfig(rows=rows))


def test_weights_are_those_of_the_first_use():
    torch.manual_seed(0)
    model, reference = Siamese().double(), torch.randn(20, 6, dtype=torch.float64)
    space = TargetSpace(model, reference, TargetSpaceConfig(ridge=0.3, ridge_scale="absolute", step_scale=1.0))
    random_targets(space, torch.Generator().manual_seed(0))
    ones = torch.ones(20, 1, dtype=torch.float64)
    a = torch.cat([reference[:, :3], ones], 1)
    w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(4).double(), a.T @ space.targets["encoder.0"].detach())
    assert close(model.encoder[0].weight, w[:-1].T)
    # what the next layer receives is what the solved encoder gives on both halves
    h = torch.tanh(model.encoder(reference[:, :3]) * model.encoder(reference[:, 3:]))
    a = torch.cat([h, ones], 1)
    w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(5).double(), a.T @ space.targets["readout"].detach())
    assert close(model.readout.weight, w[:-1].T)
