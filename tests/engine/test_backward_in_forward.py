"""Forwards that call ``backward()``: adversarial samples, fast weights, maps of what matters."""

import copy

import pytest
import torch
from torch import nn

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace, TargetSpaceConfig

BEHIND = "behind derivatives that forward computes"


@torch.enable_grad()
def adversarial(m, h):
    x = h.detach().clone().requires_grad_()
    m.layer(x).square().sum().backward()
    m.zero_grad()
    return m.layer(h) + m.layer((x + 0.1 * x.grad.sign()).detach())


@torch.enable_grad()
def descended(m, h):
    x = h.detach().clone().requires_grad_()
    m.layer(x).square().sum().backward(inputs=[x])
    return m.last((x - 0.1 * x.grad).detach()) + m.layer(h)


@torch.enable_grad()
def fast_weights(m, h):
    y = m.layer(h)
    fast = copy.deepcopy(m.layer)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
    torch.autograd.backward(fast(h.detach()).square().sum())
    optimizer.step()
    return m.last(fast(h).detach()) + y


@torch.enable_grad()
def kept(m, h):
    """A gradient on what is no leaf, as Grad-CAM has it."""
    y = m.layer(h)
    mapped = torch.tanh(y) if y.requires_grad else torch.tanh(y).requires_grad_()
    mapped.retain_grad()
    mapped.square().sum().backward(retain_graph=True)
    return m.last(mapped.grad.detach()) + y


@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("run", [adversarial, descended, fast_weights, kept])
def test_only_layers_behind_derivatives_stay_in_weight_space(run, cascade):
    """The start failed, since there was no gradient; or a layer was solved from weights that took no step."""
    parts = {"layer": nn.Linear(6, 6)} if run is adversarial else {"layer": nn.Linear(6, 6), "last": nn.Linear(6, 6)}
    model = net(run, **parts)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    space = TargetSpace(model, batch(), TargetSpaceConfig(ridge=0.1, step_scale=1.0, cascade_gradient=cascade))
    assert list(space.targets) == ["0", "2.layer"]
    assert {reason for _, _, reason in space.left} == {BEHIND}
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    for p in model.parameters():
        p.grad = None
    for n in range(2):
        optimizer.zero_grad()
        loss = model(batch(8, seed=n)).square().sum()
        model.zero_grad()  # of what forward left
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(not torch.equal(p, value) for p, value in zip(model[0].parameters(), start, strict=False))


HIDDEN = {
    "a comparison": lambda g, h: h * (g > 0),
    "an index": lambda g, h: h[g.square().sum(1).argsort()],
    "a number": lambda g, h: h if g.norm().item() > 1 else -h,
    "a branch": lambda g, h: h if (g > 0).any() else -h,
    "numbers without NaN": lambda g, h: h + g.nan_to_num(),
    "the largest": lambda g, h: h.index_select(1, g.abs().mean(0).topk(6).indices),
    "a sign": lambda g, h: h + g.sign(),
    "a sign in place": lambda g, h: h + g.clone().sign_(),
    "a sign by name": lambda g, h: h + torch.sgn(input=g),
    "a sign elsewhere": lambda g, h: h + torch.sign(g, out=torch.empty_like(g)),
    "NumPy": lambda g, h: h * float((g.numpy() > 0).any()),
}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("way", ["grad", "backward"])
def test_derivatives_that_a_comparison_hides(hide, way):
    """The layer behind it was solved from inputs that were not those of training, without a word."""

    @torch.enable_grad()
    def run(m, h):
        x = h.detach().clone().requires_grad_()
        y = m.layer(x).square().sum()
        if way == "backward":
            y.backward(inputs=[x])
        g = torch.autograd.grad(y, x)[0] if way == "grad" else x.grad
        return m.last(hide(g, h)) + m.layer(h)

    space = TargetSpace(net(run, layer=nn.Linear(6, 6), last=nn.Linear(6, 6)), batch())
    assert list(space.targets) == ["0", "2.layer"]
    assert {reason for _, _, reason in space.left} == {BEHIND}


@torch.enable_grad()
def cleared(m, h):
    """Nothing of the derivatives is left."""
    x = h.detach().clone().requires_grad_()
    m.layer(x).square().sum().backward(inputs=[x])
    x.grad.zero_()
    return m.last(h + torch.zeros_like(x.grad) + x.grad.shape[0] + x.grad.new_ones(1)) + m.layer(h)


def test_the_form_of_a_derivative_hides_nothing():
    space = TargetSpace(net(cleared, layer=nn.Linear(6, 6), last=nn.Linear(6, 6)), batch())
    assert list(space.targets) == ["0", "2.layer", "2.last", "4"]


SHOWN = {
    "parts": lambda g, h: torch.cat([h, g], 1).chunk(2, 1)[0],
    "an entry": lambda g, h: torch.stack([h, g])[0],
    "the shape of one": lambda g, h: h.reshape(-1).view_as(g),
    "the precision of one": lambda g, h: h.type_as(g).to(g),
    "a sample at a time": lambda g, h: torch.vmap(torch.tanh)(h) + 0 * len(g),
    "whole numbers": lambda g, h: h * torch.arange(1, 7).sign(),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_what_does_not_depend_on_derivatives_is_solved(show):
    @torch.enable_grad()
    def run(m, h):
        x = h.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(m.layer(x).square().sum(), x)
        return m.last(show(g, h)) + m.layer(h)

    space = TargetSpace(net(run, layer=nn.Linear(6, 6), last=nn.Linear(6, 6)), batch())
    assert list(space.targets) == ["0", "2.layer", "2.last", "4"]


@torch.enable_grad()
def attacked(m, h):
    """A leaf that the graph does not reach where layers take constants."""
    delta = torch.zeros_like(h, requires_grad=True)
    m.layer(h.detach() + delta).square().sum().backward()
    return m.last(h + delta.grad.sign()) + m.layer(h)


@torch.enable_grad()
def by_the_weight(m, h):
    """The gradient of a weight that is solved."""
    y = m.layer(h)
    y.square().sum().backward(retain_graph=True)
    return m.last(y + m.layer.weight.grad.sum(1))


@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("run", [attacked, by_the_weight])
def test_gradients_are_there_wherever_forward_reads_them(run, cascade):
    """The start failed, since there were none."""
    model = net(run, layer=nn.Linear(6, 6), last=nn.Linear(6, 6))
    space = TargetSpace(model, batch(), TargetSpaceConfig(cascade_gradient=cascade))
    assert list(space.targets) == ["0", "2.layer"]
    assert {reason for _, _, reason in space.left} == {BEHIND}
    space.solve()
    assert all(p.grad is None for p in model.parameters())


@torch.enable_grad()
def clipping(m, h):
    """Whatever a forward does to gradients that it finds."""
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1e-3)
    m.zero_grad(set_to_none=False)
    m.layer(h.detach()).sum().backward()
    return m.layer(h)


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(6, 6), lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 1), nn.Flatten())]
)
def test_gradients_of_before_are_as_they_were(make):
    model = net(clipping, layer=make())
    kept = [torch.ones_like(p) for p in model.parameters()]
    for p, gradient in zip(model.parameters(), kept, strict=True):
        p.grad = gradient
    space = TargetSpace(model, batch())
    space.solve()
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), kept, strict=True))
    assert all(bool((gradient == 1).all()) for gradient in kept)


def test_a_solve_ahead_of_a_pullback_takes_no_gradients():
    model = net(clipping, layer=nn.Linear(6, 6))
    space = TargetSpace(model, batch())
    torch.nn.functional.mse_loss(model(batch(8)), torch.ones(8, 2).double()).backward()
    before = [p.grad.clone() for p in model.parameters()]
    space.solve()
    assert all(map(torch.equal, [p.grad for p in model.parameters()], before))


def moved(m, h):
    m.layer.to(h.device)
    y = m.layer(h)
    return m.layer.to(h.dtype)(y)


def test_a_module_that_forward_moves_to_where_it_is():
    """It counted as written."""
    model = net(moved, layer=nn.Linear(6, 6))
    space = TargetSpace(model, batch(), EXACT)
    assert space.left == []
    weights = [p.detach().clone() for p in model.parameters()]
    space.solve()
    assert all(map(torch.equal, weights, model.parameters()))
    model(batch(8)).square().sum().backward()
    assert space.pullback()


def test_a_module_that_forward_casts_is_written():
    model = net(lambda m, h: m.layer.float()(h.float()).double(), layer=nn.Linear(6, 6))
    assert TargetSpace(model, batch()).left == [("2.layer", "nn.Linear", "written by forward")]
