"""The reference pass: dropout off, norms on the batch's own statistics, and nothing left changed behind it."""

import copy

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

import ts_lightning
from benchmarks.literal import Literal
from tests.support.exactness import check_each_target
from tests.support.fits import assert_equal
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.reference.shared_norm import shared_norm

NORMS = {
    "batch": lambda: nn.BatchNorm1d(5),
    "batch, no affine": lambda: nn.BatchNorm1d(5, affine=False),
    "batch, cumulative": lambda: nn.BatchNorm1d(5, momentum=None),
    "batch, synchronised": lambda: nn.SyncBatchNorm(5),
    "batch, untracked": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm1d(5, track_running_stats=True, affine=True),
    "layer": lambda: nn.LayerNorm(5),
}


class Net(nn.Module):
    def __init__(self, norm, dropout=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
        self.norm, self.dropout = norm, nn.Dropout(dropout)

    def forward(self, x):
        x = self.first(x)
        # an instance norm works on (N, C, length): one image, positions in its last axis
        x = self.norm(x.T.unsqueeze(0)).squeeze(0).T if isinstance(self.norm, nn.InstanceNorm1d) else self.norm(x)
        return self.second(self.dropout(torch.tanh(x)))


def build(norm, dropout=0.0):
    torch.manual_seed(0)
    model = Net(NORMS[norm](), dropout).double()
    return model, torch.randn(12, 3, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_statistics_are_the_batchs_own_and_running_ones_are_untouched(norm, training):
    model, x = build(norm, dropout=0.5)
    model.train()
    for _ in range(3):
        model(torch.randn(12, 3, dtype=torch.float64) + 3)  # running statistics unlike the reference batch's
    model.train(training)
    model.dropout.train(not training)  # a flag of its own, to be found again
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    flags = [m.training for m in model.modules()]
    tracked = [getattr(m, "track_running_stats", None) for m in model.modules()]
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.1, step_scale=1.0))
    space.solve()
    space.project()
    space.residuals()
    assert [m.training for m in model.modules()] == flags
    assert [getattr(m, "track_running_stats", None) for m in model.modules()] == tracked
    assert_equal(dict(model.named_buffers()), buffers)
    # the literal copy has its norms in training mode, and no dropout but in expectation, where it is on in training
    without = copy.deepcopy(model)
    without.dropout.p = 0.0
    noise = {} if training else {"second": 1.0}
    literal = Literal(without, space.targets, ridge=0.1, scale=space.config.ridge_scale, noise=noise)
    for name, value in literal.weights(x).items():
        torch.testing.assert_close(model.get_parameter(name).data, value.data, rtol=1e-9, atol=1e-12)


def test_the_random_state_is_left_as_it_was():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x + torch.randn_like(x))

    torch.manual_seed(0)
    model, x = Noisy(), torch.ones(9, 3)
    state = torch.get_rng_state()
    space = TargetSpace(model, x)
    space.solve()
    space.project()
    assert torch.equal(torch.get_rng_state(), state)


def test_no_gradient_mode_around_it_does_not_matter():
    model, x = build("batch")
    with torch.no_grad():
        space = TargetSpace(model, x)
        space.solve()
    model(x).sum().backward()
    space.pullback()
    assert all(t.grad is not None for t in space.targets.values())


def test_inference_mode_around_it_does_not_matter():
    """A batch that validation left behind, and a solve in it, would otherwise enter no gradient."""
    # without a bias, as the input itself is kept for the backward pass
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(12, 3)
    with torch.inference_mode():
        kept = x.clone()
    space = TargetSpace(model, kept)
    with torch.inference_mode():
        space.solve()
    model(x).square().sum().backward()
    assert space.pullback()
    assert all(t.grad.any() for t in space.targets.values())


def test_the_encoder_layer_of_a_transformer_is_reached_through_its_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    fast = torch.backends.mha.get_fastpath_enabled()
    space = TargetSpace(model, torch.randn(6, 5, 3))
    attention = ["1.self_attn.in_proj", "1.self_attn.out_proj"]
    assert list(space.targets) == ["0", *attention, "1.linear1", "1.linear2", "2"]
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_layers_may_be_called_with_keywords():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(input=x)

    assert list(TargetSpace(Model(), torch.randn(6, 3)).targets) == ["layer"]


def test_hooks_that_change_something_run_around_solved_layers():
    model, x = build("layer")
    seen = numpy.zeros((12, 5))  # since what else a hook writes to is put back

    def look(module, args):
        seen[...] = args[0].detach().numpy()
        return args

    model.first.register_forward_hook(lambda module, args, z: 2 * z)
    model.second.register_forward_pre_hook(look)
    space = TargetSpace(model, x)
    found = seen.copy()
    with torch.no_grad():
        model.eval()(x)
    numpy.testing.assert_allclose(found, seen, rtol=1e-5)
    assert "forward" not in model.first.__dict__
    assert space.residuals()


def test_a_forward_set_on_the_instance_is_put_back():
    model, x = build("layer")
    own = model.first.forward
    model.first.forward = lambda input: own(input)
    kept = model.first.forward
    TargetSpace(model, x)
    assert model.first.forward is kept


class Alone:
    """Stands for the messages of one process."""

    ranks = 1

    def sum(self, *tensors):
        pass

    def gather(self, sizes, *parts):
        return list(parts)


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 3), (2, 5, 3, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_the_norm_of_shared_samples_is_pytorchs_with_its_gradients(shape, affine):
    torch.manual_seed(0)
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](5, affine=affine).double()
    # a mean of many standard deviations, which sums of squares would not survive
    x = (1e6 + torch.randn(shape, dtype=torch.float64)).requires_grad_()
    inputs = [x, *norm.parameters()]
    along = torch.randn(shape, dtype=torch.float64)
    found, wanted = shared_norm(norm, Alone(), x), norm(x)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    pairs = zip(torch.autograd.grad(found, inputs, along), torch.autograd.grad(wanted, inputs, along), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_a_module_may_read_the_running_statistics_of_a_norm():
    """As a convolution does that is quantised together with the norm behind it."""

    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
            self.norm, self.folded = nn.BatchNorm1d(5), nn.Linear(5, 5, bias=False)

        def forward(self, x):
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            x = functional.linear(self.first(x), self.folded.weight * scale.unsqueeze(1)) / scale
            return self.second(torch.tanh(self.norm(x)))

    torch.manual_seed(0)
    model = Folded().double()
    model(torch.randn(12, 3, dtype=torch.float64) + 3)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    space = TargetSpace(model, torch.randn(12, 3, dtype=torch.float64), TargetSpaceConfig(ridge=0.1, step_scale=1.0))
    assert_equal(dict(model.named_buffers()), buffers)
    assert set(space.targets) == {"first", "second"}
    model.eval()  # in which the loss is a function of the weights alone

    def loss():
        return model(torch.ones(8, 3, dtype=torch.float64)).square().sum()

    loss().backward()
    assert space.pullback()
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-8)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ((torch.ones(5, 3), torch.ones(5)), "a tuple of 2 items"),
        ([torch.ones(5, 3), torch.ones(5)], "a list of 2 items"),
        ({"input": torch.ones(5, 3), "y": torch.ones(5)}, "a dict of input, y"),
        ((), "a tuple of 0 items"),
    ],
)
@pytest.mark.parametrize("make", [TargetSpace, ts_lightning.inspect])
@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2))], ids=["a layer", "a model"])
def test_other_items_than_forward_takes_are_refused_with_what_it_takes(model, make, reference, found):
    expected = (
        rf"without labels: found {found}; {type(model).__name__}\.forward takes \(input\)\. Give the inputs alone"
    )
    with pytest.raises(TargetSpaceError, match=expected) as caught:
        make(model, reference)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_type_error_of_forward_itself_stays_as_it_is():
    class Broken(nn.Linear):
        def forward(self, x):
            return super().forward(x) + "1"

    with pytest.raises(TypeError, match="str"):
        TargetSpace(nn.Sequential(Broken(3, 2)), (torch.ones(5, 3),))
