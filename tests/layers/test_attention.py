"""nn.MultiheadAttention against its own forward, and against a network that has nn.Linear for each of its systems."""

import copy
import itertools
import warnings
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.exactness import close, gradients, random_targets
from tests.fits import fit
from ts_lightning import (
    ReferenceConfig,
    TargetSpace,
    TargetSpaceConfig,
    TargetSpaceError,
    TargetSpaceMixin,
    TargetSpaceMonitor,
)
from ts_lightning.layers.attention import InProjection
from ts_lightning.observation import Observation
from ts_lightning.selection import select_layers

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
        _, passed = layer.solve(x, space.targets[layer.name])
        if isinstance(layer, InProjection):
            found.extend(passed)
        return passed

    space._pass.walk(run)
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
    hidden = torch.rand(shape) < 0.3 if kind != "causal" else torch.ones(shape, dtype=torch.bool).triu(1)
    hidden[..., 0] = False
    return (
        hidden
        if kind in ("bool", "causal")
        else torch.randn(shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    )


def test_a_causal_encoder_that_pads_is_what_it_was_solved_to_be():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(EMBED, HEADS, 16, dropout=0.5, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    x = inputs("self")[0]
    hidden = torch.arange(QUERIES) >= torch.tensor([[5], [3], [2], [5], [4], [1]])
    causal = nn.Transformer.generate_square_subsequent_mask(QUERIES, dtype=torch.float64)
    seen = []

    def run():
        seen.append(model(x, mask=causal, src_key_padding_mask=hidden, is_causal=True))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = TargetSpace(model, run)
        assert [name.removeprefix("layers.0.") for name in space.targets][:4] == [
            "self_attn.in_proj",
            "self_attn.out_proj",
            "linear1",
            "linear2",
        ]
        space.solve()
        torch.testing.assert_close(
            seen[-1], model.eval()(x, mask=causal, src_key_padding_mask=hidden, is_causal=True), equal_nan=True
        )


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


@pytest.mark.parametrize("rows", ["all", 22, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_restored(kind, rows):
    config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows))  # 22 of 30 and all 24
    torch.manual_seed(0)
    space = TargetSpace(Net(kind), inputs(kind, torch.float32), config)
    state = space.state_dict()
    again = TargetSpace(Net(kind), inputs(kind, torch.float32), config, state=state)
    for name, target in space.targets.items():
        assert torch.equal(again.targets[name], target)
    for one, other in zip(space.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_solved_stays_in_weight_space():
    class Other(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = nn.Sequential(
        nn.MultiheadAttention(EMBED, HEADS, kdim=4),
        nn.MultiheadAttention(EMBED, HEADS, add_bias_kv=True),
        nn.MultiheadAttention(EMBED, HEADS, add_zero_attn=True),
        Other(EMBED, HEADS),
        nn.Linear(3, 3),
    )
    assert [layer.name for layer in select_layers(model, TargetSpaceConfig())] == ["4"]


def test_the_projection_behind_the_heads_can_be_left_in_weight_space():
    net = Net("self")
    config = TargetSpaceConfig(exclude=["attention.out_proj"])
    space = TargetSpace(net, inputs("self", torch.float32), config)
    assert list(space.targets) == ["first.0", "attention.in_proj", "readout"]
    assert any(p is net.attention.out_proj.weight for p in space.parameters())


def test_frozen_projections():
    net = Net("self")
    net.attention.out_proj.requires_grad_(False)
    with pytest.raises(TargetSpaceError, match="layer 'attention' has a frozen weight or bias beside trainable ones"):
        select_layers(net, TargetSpaceConfig())
    chosen = select_layers(net, TargetSpaceConfig(exclude=["attention.out_proj"]))
    assert [layer.name for layer in chosen] == ["first.0", "attention.in_proj", "readout"]
    net.attention.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen: attention"):
        assert [layer.name for layer in select_layers(net, TargetSpaceConfig())] == ["first.0", "readout"]


def test_a_projection_of_another_type_is_solved_once():
    net = Net("self")
    net.attention.out_proj = nn.Linear(EMBED, EMBED)
    names = ["first.0", "attention.in_proj", "attention.out_proj", "readout"]
    assert list(TargetSpace(net, inputs("self", torch.float32)).targets) == names


def test_two_attentions_cannot_share_a_projection():
    model = nn.ModuleList(nn.MultiheadAttention(EMBED, HEADS) for _ in range(2))
    model[1].out_proj = model[0].out_proj
    with pytest.raises(TargetSpaceError, match=r"0\.out_proj\.weight, 1\.out_proj\.weight are one parameter"):
        select_layers(model, TargetSpaceConfig())


def test_a_compiled_attention_has_the_names_of_one_that_is_not():
    net = Net("self")
    net.attention = torch.compile(net.attention, backend="eager")
    config = TargetSpaceConfig(exclude=["attention.out_proj"])
    assert list(TargetSpace(net, inputs("self", torch.float32), config).targets) == [
        "first.0",
        "attention.in_proj",
        "readout",
    ]


def test_a_space_that_has_ended_can_be_copied():
    space = TargetSpace(Net("to another"), inputs("to another", torch.float32))
    space.release()
    again = copy.deepcopy(space)
    for one, other in zip(space.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Lit(TargetSpaceMixin, LightningModule):
    """Learned queries that attend to a sequence."""

    def __init__(self, refresh=None, trained=lambda name: True):
        super().__init__()
        self.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=8, selection="random", refresh=refresh))
        self.trained = trained
        self.queries = nn.Parameter(torch.randn(2, EMBED))
        self.attention, self.readout = nn.MultiheadAttention(EMBED, HEADS, batch_first=True), nn.Linear(EMBED, 3)

    def forward(self, x):
        return self.readout(self.attention(self.queries.expand(len(x), -1, -1), x, x)[0].mean(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam([p for name, p in self.named_parameters() if self.trained(name)], lr=0.01)


def batches():
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(32, QUERIES, EMBED), torch.arange(32) % 3), 8)


def test_it_is_watched_while_the_reference_batch_is_renewed(tmp_path):
    monitor = TargetSpaceMonitor(1)
    run = fit(
        Lit(refresh=1), batches(), max_epochs=3, callbacks=[monitor], logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    assert float(run.callback_metrics["target_space/rank/attention.in_proj"]) > 0


def test_a_projection_that_no_optimizer_trains_stays_as_it_is():
    model = Lit(trained=lambda name: "out_proj" not in name)
    before = model.attention.out_proj.weight.detach().clone()
    with pytest.warns(UserWarning, match="no optimizer trains them: attention.out_proj"):
        fit(model, batches())
    assert list(model.target_space_engine.targets) == ["attention.in_proj", "readout"]
    assert torch.equal(model.attention.out_proj.weight, before)
