"""Forwards that take one sample after the other, or one alone, without a dimension of samples."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_model, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig

CONFIG = TargetSpaceConfig(ridge=0.3, step_scale=1.0)


def points(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Functions(nn.Module):
    """Weights that functions apply."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 2, 3))
        self.shift = nn.Parameter(torch.zeros(3))
        self.second, self.third = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        h = torch.tanh(functional.conv1d(x, self.first, self.shift)).mean(-1)
        return functional.linear(torch.tanh(h @ self.second), self.third)


def dense():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 2))


def flat(x):
    return x.flatten(-2).mean(-1)


class Dropped(nn.Module):
    """The same with weights that functions apply."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(2, 5))

    def forward(self, x):
        h = torch.tanh(functional.linear(x, self.first))
        return functional.linear(functional.dropout(h, 0.3, self.training), self.second)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 2, 2, stride=2)
        self.pairs = nn.Bilinear(2, 2, 3)

    def forward(self, x):
        h = flat(torch.tanh(self.up(torch.tanh(self.down(x)))))
        return self.pairs(h, torch.tanh(h))


class Each(nn.Module):
    """The network on one sample after the other, or on all at once."""

    def __init__(self, net, loop):
        super().__init__()
        self.net, self.loop = net, loop

    def forward(self, x):
        return torch.stack([self.net(sample) for sample in x]) if self.loop else self.net(x)


@pytest.mark.parametrize("by_function", [False, True])
def test_weights_and_gradients_are_those_of_a_batch_with_its_noise(by_function):
    spaces = []
    for loop in (True, False):
        torch.manual_seed(0)
        model = Each(Dropped() if by_function else dense(), loop).double().train()
        spaces.append(TargetSpace(model, points(12, 4), CONFIG))
        assert spaces[-1].left == []
    looped, batched = spaces
    random_targets(batched, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, target in looped.targets.items():
            target.copy_(batched.targets[name])
    looped.solve()
    found, expected = dict(looped.model.named_parameters()), dict(batched.model.named_parameters())
    torch.testing.assert_close(found, expected)

    def loss(model):
        return model.eval()(points(12, 4, seed=1)).square().sum()

    torch.testing.assert_close(*(gradients(space, space.model, loss) for space in spaces))


class Ragged(nn.Module):
    """Sets of any size, each summed up by itself."""

    def __init__(self):
        super().__init__()
        self.member, self.readout = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, sets):
        return torch.stack([self.readout(torch.tanh(self.member(rows)).mean(0)) for rows in sets])


class Trees(nn.Module):
    """A network along trees: of vectors, which are leaves, and pairs of trees."""

    def __init__(self):
        super().__init__()
        self.leaf, self.node, self.readout = nn.Linear(3, 4), nn.Linear(8, 4), nn.Linear(4, 2)

    def tree(self, tree):
        if isinstance(tree, torch.Tensor):
            return torch.tanh(self.leaf(tree))
        return torch.tanh(self.node(torch.cat([self.tree(branch) for branch in tree])))

    def forward(self, trees):
        return torch.stack([self.readout(self.tree(tree)) for tree in trees])


class Steps(nn.Module):
    """A cell along one sequence."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.Linear(3 + 4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = x.new_zeros(4)
        for step in x:
            h = torch.tanh(self.cell(torch.cat([step, h])))
        return self.readout(h)


def trees(seed):
    a, b, c, d, e, f = points(6, 3, seed=seed)
    return [(a, (b, c)), ((d, e), (f, a)), (c, d), b, ((e, f), (a, (b, d)))]


ALONE = {
    "ragged": (Ragged, lambda seed: ([points(size, 4, seed=seed + size) for size in range(2, 10)],)),
    "trees": (Trees, lambda seed: (trees(seed),)),
    "steps": (Steps, lambda seed: (points(12, 3, seed=seed),)),
    "images": (lambda: Each(Images(), loop=True), lambda seed: points(12, 2, 5, 5, seed=seed)),
    "functions": (lambda: Each(Functions(), loop=True), lambda seed: points(20, 2, 5, seed=seed)),
    "one image": (Images, lambda seed: points(2, 5, 5, seed=seed)),
    "one sample": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
        lambda seed: points(4, seed=seed),
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_all_is_solved_and_gradients_predict_differences(case):
    make, data = ALONE[case]
    torch.manual_seed(0)
    x = data(1)
    check_model(make().double(), data(0), x[0] if isinstance(x, tuple) else x, torch.Generator().manual_seed(0))
