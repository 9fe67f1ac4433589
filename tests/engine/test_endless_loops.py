"""Forwards that go on until their numbers come to rest, as adaptive solvers do: the start hung with random weights."""

import pytest
import torch
from torch import nn

from tests.support.fits import Lit, build, fit
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.errors import EndlessLoop

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


class Resting(nn.Module):
    """A loop over ``cell`` between a layer before it and one behind it."""

    def __init__(self, scale=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.cell, self.behind = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.scale = scale

    def step(self, z, u):
        return torch.tanh(self.scale * self.cell(z) + u)

    def rest(self, u):
        z = u
        while not (difference := (self.step(z, u) - z).norm()) < 1e-3 * z.norm():  # NaNs do not rest
            z = self.step(z, u)
            assert difference is not None
        return z

    def forward(self, x):
        return self.behind(self.rest(torch.tanh(self.before(x))))


class FromZero(Resting):
    def rest(self, u):
        z, last = self.step(torch.zeros_like(u), u), torch.zeros_like(u)
        while not (z - last).norm() < 1e-3 * z.norm():
            z, last = self.step(z, u), z
        return z


class Implicit(Resting):
    """One step with a gradient behind the fixed point, which has none."""

    def rest(self, u):
        with torch.no_grad():
            z = super().rest(u)
        return self.step(z, u)


class Adaptive(Resting):
    """Half steps until they agree with whole ones, as a solver of differential equations makes them."""

    def rest(self, u):
        z, time, size = u, 0.0, 0.5
        while time < 1:
            whole = z + size * self.step(z, u)
            half = z + size / 2 * self.step(z, u)
            half = half + size / 2 * self.step(half, u)
            if (whole - half).abs().max() < 1e-2:
                z, time, size = half, time + size, min(2 * size, 1 - time)
            else:
                size /= 2
        return z


@pytest.mark.parametrize("cls", [Resting, FromZero, Implicit, Adaptive])
def test_the_start_comes_to_its_end(cls):
    space = TargetSpace(cls(), X)
    assert {"before", "behind"} <= set(space.targets)


class Diverging(Resting):
    """With its own weights alone the loop comes to rest: with larger ones it grows without a bound."""

    def __init__(self):
        super().__init__()
        nn.init.orthogonal_(self.cell.weight, 0.3)

    def step(self, z, u):
        return self.cell(z) + u


class DivergingWithoutGradients(Diverging, Implicit):
    pass


@pytest.mark.parametrize("cls", [Diverging, DivergingWithoutGradients])
def test_random_weights_with_which_a_loop_has_no_end(cls):
    space = TargetSpace(cls(), X, TargetSpaceConfig(init="weights"))
    assert {"before", "behind"} <= set(space.targets)


@torch.no_grad()
def test_solved_weights_with_which_a_loop_has_no_end_are_named():
    space = TargetSpace(Diverging(), X, TargetSpaceConfig(init="weights"))
    space.targets["cell"].mul_(10)
    with pytest.raises(EndlessLoop, match=r"layer 'cell' had \d+ uses .* found \d+ so far.* add 'cell' to exclude"):
        space.solve()


def test_a_fit_ends_at_once():
    """With weights that are NaN, a loop of the training step would have no end either."""

    class Growing(Lit):
        target_space = TargetSpaceConfig(init="weights")

        def __init__(self, **options):
            super().__init__(**options)
            self.net = Diverging()

        def on_before_optimizer_step(self, optimizer):
            self.steps = self.global_step

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
            assert all(p.isfinite().all() for p in self.parameters())

    with pytest.raises(EndlessLoop):
        fit(build(Growing, optimizer=lambda p: torch.optim.SGD(p, lr=1000.0)), max_epochs=2)
