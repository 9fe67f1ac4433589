"""nn.MultiheadAttention against its own forward, and against a network that has nn.Linear for each of its systems."""

import itertools
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.exactness import close, gradients, random_targets
from ts_lightning import (
    ReferenceConfig,
    TargetSpace,
    TargetSpaceConfig,
)
from ts_lightning.callbacks.observation import Observation
from ts_lightning.layers.attention.projections import InProjection

SAMPLES, QUERIES, KEYS, EMBED, HEADS = 6, 5, 4, 8, 2
#: how many of query, key and value each input is
KINDS = {"self": (3,), "to another": (1, 2), "positions in keys": (2, 1), "three": (1, 1, 1)}


def inputs(kind, dtype=torch.float64, batch_first=True, samples=SAMPLES):
    torch.manual_seed(0)
    lengths = {"self": [QUERIES], "to another": [QUERIES, KEYS], "positions in keys": [QUERIES] * 2}
    found = [torch.randn(samples, n, EMBED, dtype=dtype) for n in lengths.get(kind, [QUERIES, KEYS, KEYS])]
    return found if batch_first else [x.transpose(0, 1) for x in found]


def three(kind, tensors):
    """Query, key and value."""
    return [tensor for tensor, count in zip(tensors, KINDS[kind], strict=True) for _ in range(count)]


class Net(nn.Module):
    """An attention between a dense layer for each input and a readout."""

    def __init__(self, kind, bias=True, batch_first=True):
        super().__init__()
        self.kind = kind
        self.first = nn.ModuleList(nn.Linear(EMBED, EMBED) for _ in KINDS[kind])
        self.attention = nn.MultiheadAttention(EMBED, HEADS, bias=bias, dropout=0.5, batch_first=batch_first)
        self.readout = nn.Linear(EMBED, 3)

    def attend(self, *tensors):
        return self.attention(*three(self.kind, tensors), need_weights=False)[0]

    def forward(self, *tensors):
        return self.readout(self.attend(*(layer(x).tanh() for layer, x in zip(self.first, tensors, strict=True))))


class Twin(Net):
    """The same with nn.Linear for each of the attention's inputs, and behind its heads."""

    def __init__(self, net):
        module = net.attention
        super().__init__(net.kind, module.in_proj_bias is not None, module.batch_first)
        self.load_state_dict(net.state_dict())
        sizes = [count * EMBED for count in KINDS[net.kind]]
        self.inside = nn.ModuleList(nn.Linear(EMBED, size, module.in_proj_bias is not None) for size in sizes)
        del self.attention
        self.batch_first, weights = module.batch_first, module.in_proj_weight.split(sizes)
        self.outside = nn.Linear(EMBED, EMBED, module.out_proj.bias is not None)
        self.outside.load_state_dict(module.out_proj.state_dict())
        for n, layer in enumerate(self.inside):
            layer.weight.data.copy_(weights[n])
            if layer.bias is not None:
                layer.bias.data.copy_(module.in_proj_bias.split(sizes)[n])

    def attend(self, *tensors):
        each = zip(self.inside, tensors, KINDS[self.kind], strict=True)
        q, k, v = (
            (z if self.batch_first else z.transpose(0, 1)).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for layer, x, count in each
            for z in layer(x).chunk(count, -1)
        )
        z = (torch.softmax(q @ k.mT / (EMBED // HEADS) ** 0.5, -1) @ v).transpose(1, 2).flatten(2)
        return self.outside(z if self.batch_first else z.transpose(0, 1))


def joined(values):
    """What a module's one parameter holds, out of the twin's several."""
    return torch.cat([value.detach().reshape(-1, EMBED) for value in values])


def spaces(kind, config, bias=True, batch_first=True):
    """Both networks in target space, equal targets far from what layers can achieve in both."""
    torch.manual_seed(1)
    # what "auto" comes to depends on the number of layers, and the sample of rows on what else is random
    config = replace(config, step_scale=1.0, init="weights")
    net = Net(kind, bias, batch_first).double().eval()
    twin = Twin(net).double().eval()
    found = [TargetSpace(model, inputs(kind, batch_first=batch_first), config) for model in (net, twin)]
    random_targets(found[1], torch.Generator().manual_seed(2))
    give(*found)
    return found


def named(values):
    """The twin's values by the names that the module's targets have."""
    inside = [values[name] for name in values if name.startswith("inside")]
    whole = inside[0] if len(inside) == 1 else joined(inside)
    rest = {name: value for name, value in values.items() if not name.startswith("inside")}
    return {"attention.in_proj": whole, "attention.out_proj": rest.pop("outside"), **rest}


@torch.no_grad()
def give(space, twin):
    for name, target in named(twin.targets).items():
        space.targets[name].copy_(target)
    space.solve()


@pytest.mark.parametrize("rows", ["all", 12])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_dense_layers(kind, bias, rows):
    compare(*spaces(kind, TargetSpaceConfig(ridge=0.1, reference=ReferenceConfig(rows=rows)), bias))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_dense_layers_where_time_is_first_and_in_ocu(kind):
    compare(*spaces(kind, TargetSpaceConfig(ridge=0.1, ridge_scale="mean"), batch_first=False))
    compare(*spaces(kind, TargetSpaceConfig(ridge=0.1, method="ocu")))


def compare(space, twin):
    net, other = space.model, twin.model
    assert close(net.attention.in_proj_weight, joined([layer.weight for layer in other.inside]))
    x = inputs(net.kind, batch_first=net.attention.batch_first, samples=3)
    found, expected = (gradients(each, each.model, lambda model: model(*x).square().sum()) for each in (space, twin))
    expected = named(expected)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any()
        assert close(found[name], gradient), name


@pytest.mark.parametrize("rows", ["all", 12])
@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_given_weights_are_those_of_dense_layers(kind, rows):
    torch.manual_seed(1)
    net = Net(kind).double()
    config = TargetSpaceConfig(init="weights", step_scale=1.0, reference=ReferenceConfig(rows=rows))
    space, twin = (TargetSpace(model, inputs(kind), config) for model in [net, Twin(net).double()])
    assert torch.equal(space.targets["attention.in_proj"], named(twin.targets)["attention.in_proj"])
    assert close(space.targets["readout"], twin.targets["readout"], 1e-7)  # ill-conditioned, and behind the others


@pytest.mark.parametrize("kind", KINDS)
def test_targets_start_with_the_spread_that_is_asked_for(kind):
    torch.manual_seed(1)
    net = Net(kind).double()
    config = TargetSpaceConfig(init_std=0.5, step_scale=1.0)
    space = TargetSpace(net, inputs(kind), config)
    with torch.no_grad():
        q, k, v = (z.std() for z in _projected(space))
    assert abs(float(torch.stack([q, k, v]).square().mean().sqrt()) - 0.5) < 0.1


def _projected(space):
    """Queries, keys and values in the reference pass."""
    found = []

    def run(layer, x):
        values, passed = layer.solve(x, space.targets[layer.name])
        if isinstance(layer, InProjection):
            found.extend(passed)
        return values, passed

    space.cascade.reference.walk(run)
    return found


def visit(layer, x):
    """A layer's own forward, with its module's weights."""
    if not isinstance(layer, InProjection):
        return nn.functional.linear(x, *layer.parameters)
    weights = [p.chunk(3) for p in layer.parameters]
    each = [tensor for tensor, count in zip(x.tensors, x.projections, strict=True) for _ in range(count)]
    return [nn.functional.linear(tensor, *own) for tensor, *own in zip(each, *weights, strict=True)]


MASKS = [None, "bool", "float"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_forward_is_the_modules_with_every_mask(batch_first, kind):
    module = nn.MultiheadAttention(EMBED, HEADS, batch_first=batch_first).double().eval()
    layers = InProjection.of("attention", module, TargetSpaceConfig())
    for single, steps, each, padding, weights, average in itertools.product(
        [False, True], [*MASKS, "causal"], [False, True], MASKS, [False, True], [False, True]
    ):
        tensors = inputs(kind, batch_first=batch_first)
        if single:
            tensors = [x.select(0 if batch_first else 1, 0) for x in tensors]
        query, key, value = three(kind, tensors)
        length, keys = (x.shape[-2 if batch_first or single else 0] for x in (query, key))
        samples = 1 if single else SAMPLES
        options = {
            "attn_mask": masked(steps, (samples * HEADS, length, keys) if each else (length, keys)),
            "key_padding_mask": masked(padding, (keys,) if single else (samples, keys)),
            "need_weights": weights,
            "average_attn_weights": average,
            "is_causal": steps == "causal",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the two masks are of different types
            expected = module(query, key, value, **options)
        found = InProjection.forward(layers, visit, query, key, value, **options)
        torch.testing.assert_close(found, expected)


def masked(kind, shape):
    if kind is None:
        return None
    if kind == "causal":
        return torch.ones(shape, dtype=torch.bool).triu(1)
    hidden = torch.rand(shape) < 0.3
    hidden[..., 0] = False
    return hidden if kind == "bool" else torch.randn(shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_its_systems_are_measured_together(kind):
    space, twin = spaces(kind, TargetSpaceConfig(ridge=0.1))
    found, expected = observed(space, kind), observed(twin, kind)
    parts = [name for name in twin.targets if name.startswith("inside")]
    for quantity, choose in {"condition": max, "rank": min, "ridge": max}.items():
        value = float(choose(expected[quantity][name] for name in parts))
        assert float(found[quantity]["attention.in_proj"]) == pytest.approx(value)
    if len(parts) == 1:
        assert float(found["residual"]["attention.in_proj"]) == pytest.approx(float(expected["residual"][parts[0]]))


def observed(space, kind):
    observation = Observation(space)
    observation.begin()
    space.model(*inputs(kind)).sum().backward()
    space.pullback()
    space.solve()
    observation.end()
    return observation.values()
