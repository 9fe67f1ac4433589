"""Layers that a forward calls where they cannot be solved: left in weight space and named, or refused by name."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacrev, stack_module_state
from torch.nn import functional

from tests.support.exactness import check_each_target
from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

OFF, TRANSFORM, OTHER, WRITTEN = (
    "called where gradients are off",
    "called in a transform of torch.func",
    "called with other weights than its own",
    "written by forward",
)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight.mT, x.mT @ gradient


class Recomputed(torch.autograd.Function):
    """As in reversible networks: the module runs without a graph, and again in the backward pass."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        ctx.save_for_backward(x)
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = ctx.module(x)
        torch.autograd.backward(out, gradient)
        return x.grad, None


product = Product.apply  # bound once, as is usual


def switched_by_mode(m, h):
    with torch.set_grad_enabled(m.training):
        return m.e(h)


def inference_mode_in_eval(m, h):
    if m.training:
        return m.e(h)
    with torch.inference_mode():
        out = m.e(h)
    return out.clone()


def without_gradients(m, h):
    with torch.no_grad():
        teacher = m.e(h)
    return h + teacher


def in_a_function(m, h):
    return product(h, m.e.weight)


def in_a_function_and_called(m, h):
    return m.e(h) + product(h, m.e.weight)


def recomputed(m, h):
    return Recomputed.apply(h, m.e)


def mapped(m, h):
    return torch.vmap(m.e)(h)


def jacobian(m, h):
    return h + torch.vmap(jacrev(m.e))(h).sum(-1)


def tangents(m, h):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(m.e(forward_ad.make_dual(h, torch.ones_like(h)))).tangent + h


def ensemble(m, h):
    parameters, buffers = stack_module_state([m.e, m.f])
    return torch.vmap(lambda p, b: functional_call(m.e, (p, b), (h,)))(parameters, buffers).mean(0)


def scaled_weights(m, h):
    return functional_call(m.e, {name: 0.9 * p for name, p in m.e.named_parameters()}, (h,))


def called_and_scaled(m, h):
    return m.e(h) + scaled_weights(m, h)


def swapped_data(m, h):
    weight = m.e.weight.data
    m.e.weight.data = weight.sign()
    out = m.e(h)
    m.e.weight.data = weight
    return out


def masked_data(m, h):
    m.e.weight.data.mul_(m.mask)
    return m.e(h)


def clamped(m, h):
    with torch.no_grad():
        m.e.weight.clamp_(-0.1, 0.1)
    return m.e(h)


def in_a_map_by_function(m, h):
    return torch.vmap(lambda x: functional.linear(x, m.e.weight))(h)


SITES = {
    switched_by_mode: OFF,
    inference_mode_in_eval: OFF,
    without_gradients: OFF,
    in_a_function: OFF,
    in_a_function_and_called: OFF,
    recomputed: OFF,
    mapped: TRANSFORM,
    jacobian: TRANSFORM,
    tangents: TRANSFORM,
    ensemble: TRANSFORM,
    in_a_map_by_function: TRANSFORM,
    scaled_weights: OTHER,
    called_and_scaled: OTHER,
    swapped_data: WRITTEN,
    masked_data: WRITTEN,
    clamped: WRITTEN,
}


def model_of(run):
    model = net(run, e=nn.Linear(6, 6), f=nn.Linear(6, 6) if run is ensemble else None)
    model[2].register_buffer("mask", torch.ones(6, 6, dtype=torch.float64).tril())
    return model


@pytest.mark.parametrize("run", SITES, ids=lambda run: run.__name__)
def test_it_is_left_in_weight_space_and_trains_as_there(run):
    model = model_of(run).train()
    space = TargetSpace(model, batch(), EXACT)
    left = {name: reason for name, _, reason in space.left}
    assert left["2.e"] == SITES[run]
    behind = {"4"} if run is jacobian else set()  # which are derivatives in the pass
    assert set(space.targets) == {"0", "4"} - behind

    twin = copy.deepcopy(model)
    for each in (model, twin):
        each(batch(8, seed=2)).square().sum().backward()
    if run not in (switched_by_mode, inference_mode_in_eval):  # whose reference pass has no gradients, as is said
        for name, parameter in twin[2].named_parameters():
            gradient = model[2].get_parameter(name).grad
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
    assert space.pullback()


@pytest.mark.parametrize("run", SITES, ids=lambda run: run.__name__)
def test_a_layer_that_is_named_is_refused_with_what_to_do(run):
    with pytest.raises(TargetSpaceError, match=rf"layer '2\.e'.* {SITES[run]}.*Add '2\.e' to exclude"):
        TargetSpace(model_of(run), batch(), TargetSpaceConfig(layers=["0", "4", "2.e"]))


class Forces(nn.Module):
    """An energy, its derivative by a transform behind the layers' own calls, and a look at a weight."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, x):
        with torch.no_grad():
            self.norm = float(self.net[0].weight.norm()) + float(self.net[0].weight.data.clone().sum())
        energy = functional_call(self.net, dict(self.net.named_parameters()), (x,))  # its own weights
        return energy, torch.vmap(torch.func.grad(lambda sample: self.net(sample).sum()))(x)


def exact(space, loss):
    loss().backward()
    assert space.pullback()
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-8)


def test_what_harms_nothing_is_solved_with_exact_gradients():
    torch.manual_seed(0)
    model = Forces()
    space = TargetSpace(model, batch(), EXACT)
    assert set(space.targets) == {"net.0", "net.2"}
    exact(space, lambda: sum(out.square().sum() for out in model(batch(8, seed=2))))


def test_complex_weights_stay_in_weight_space():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.wave = nn.Linear(3, 4, dtype=torch.complex128)
            self.turn = nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))
            self.readout = nn.Linear(4, 2, dtype=torch.float64)

        def forward(self, x):
            return self.readout((self.wave(x.to(torch.complex128)) @ self.turn).abs())

    torch.manual_seed(0)
    model = Complex()
    space = TargetSpace(model, batch(), EXACT)
    assert {(name, reason) for name, _, reason in space.left} == {("wave", "complex weights"), ("", "complex weights")}
    exact(space, lambda: model(batch(8, seed=2)).square().sum())
    with pytest.raises(TargetSpaceError, match=r"layer 'wave' \(Linear\) has complex weights"):
        TargetSpace(Complex(), batch(), TargetSpaceConfig(layers=["*"]))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_a_layer_on_a_nested_tensor_stays_in_weight_space(layout):
    def run(m, h):
        nested = torch.nested.as_nested_tensor([h[:2], h[2:]], layout=layout)
        return torch.nested.to_padded_tensor(m.e(nested), 0.0)[:, :6].reshape(-1, 6)

    model = net(run, e=nn.Linear(6, 6))
    space = TargetSpace(model, batch(), EXACT)
    assert space.left == [("2.e", "nn.Linear", "called on a nested tensor")]
    model(batch(8, seed=2)).square().sum().backward()
    assert space.pullback()
    assert model[2].e.weight.grad.abs().sum() > 0
    space.solve()
    with pytest.raises(TargetSpaceError, match=r"layer '2.e' is called on a nested tensor .*Add '2.e' to exclude"):
        TargetSpace(net(run, e=nn.Linear(6, 6)), batch(), TargetSpaceConfig(layers=["2.e"]))


@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_layer_of_sparse_features_stays_in_weight_space(sparse):
    def run(m, h):
        words = (torch.arange(6 * len(h)) % 5 == 0).view(-1, 6).double()
        return m.e(sparse(words)) + h

    model = net(run, e=nn.Linear(6, 6))
    space = TargetSpace(model, batch(), EXACT)
    assert space.left == [("2.e", "nn.Linear", "called on a sparse tensor")]
    exact(space, lambda: model(batch(8, seed=2)).square().sum())
    with pytest.raises(TargetSpaceError, match=r"layer '2.e' is called on a sparse tensor .*to_dense.*Add '2.e'"):
        TargetSpace(net(run, e=nn.Linear(6, 6)), batch(), TargetSpaceConfig(layers=["2.e"]))


def test_a_new_reference_batch_for_which_forward_switches_gradients_off_is_refused():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            with torch.set_grad_enabled(bool(x.sum() > 0)):
                h = torch.tanh(self.first(x))
            return self.second(h)

    space = TargetSpace(Gated(), torch.ones(8, 3))
    with pytest.raises(TargetSpaceError, match=rf"layer 'first' is {OFF}.*Add 'first' to exclude"):
        space.refresh(-torch.ones(8, 3))
