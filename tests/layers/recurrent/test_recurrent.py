"""nn.RNN, nn.LSTM and nn.GRU, against the literal implementation and finite differences, in float64."""

import warnings
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.literal import Literal
from tests.support.exactness import check_exact, close, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.config import RidgeScaleName

SCALES = get_args(RidgeScaleName)
CELLS = {
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
}
# of finite differences: shorter where there are kinks to step over
STEP = {"tanh": 1e-4, "relu": 1e-6, "lstm": 1e-4, "gru": 1e-4}
STACKS = {
    "one": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "stacked": {"num_layers": 2, "dropout": 0.5},
    "both ways": {"bidirectional": True, "batch_first": True},
    "stacked both ways": {"num_layers": 2, "bidirectional": True, "bias": False},
}


class Tagger(nn.Module):
    """A recurrent module between an input layer, a trained first state and a readout of all steps and the last state.

    ``lengths``: of the reference or of the batch, by its number of sequences; padding behind is packed away.
    """

    def __init__(self, cell, *, lengths=None, **options):
        super().__init__()
        kind, more = CELLS[cell]
        self.lengths = lengths or {}
        self.embed = nn.Linear(2, 3)
        self.rnn = kind(3, 4, **more, **options)
        ways = 2 if self.rnn.bidirectional else 1
        first = 0.5 * torch.randn(2, self.rnn.num_layers * ways, 1, 4)
        self.h0, self.c0 = nn.Parameter(first[0]), nn.Parameter(first[1])
        self.readout = nn.Linear(4 * ways, 3)

    def forward(self, x):
        """(samples, steps, 2) to (samples, steps + 1, 3)."""
        samples = len(x)
        x = self.embed(x if self.rnn.batch_first else x.transpose(0, 1))
        h0, c0 = (state.expand(-1, samples, -1).contiguous() for state in (self.h0, self.c0))
        hx = (h0, c0) if isinstance(self.rnn, nn.LSTM) else h0 + 0 * c0
        if self.lengths:
            lengths = self.lengths[samples]
            x = pack_padded_sequence(x, lengths, self.rnn.batch_first, enforce_sorted=False)
        y, last = self.rnn(x, hx)
        if self.lengths:
            y, _ = pad_packed_sequence(y, self.rnn.batch_first)
        last = sum(last) if isinstance(self.rnn, nn.LSTM) else last
        ways = 2 if self.rnn.bidirectional else 1
        last = torch.cat(list(last[-ways:]), -1)
        y = y if self.rnn.batch_first else y.transpose(0, 1)
        return self.readout(torch.tanh(torch.cat([y, last.unsqueeze(1)], 1)))


def case(cell, stack, *, packed, seed=0, samples=5, steps=6):
    """A model, a reference batch longer than the batch, and a loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = {samples: [3, steps, 1, 5, 3][:samples], 4: [2, 4, 3, 4]} if packed else None
    model = Tagger(cell, lengths=lengths, **STACKS[stack])
    reference = torch.randn(samples, steps, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(4, 4, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (4, 5), generator=generator)

    def loss(run):
        torch.manual_seed(1)  # of the dropout between the layers of a stack
        return functional.cross_entropy(run(x).flatten(0, 1), y.flatten())

    return model, reference, loss


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_stack(cell, stack, packed, method):
    model, reference, loss = case(cell, stack, packed=packed)
    check_exact(model, (reference,), loss, TargetSpaceConfig(ridge=0.1, method=method), step=STEP[cell])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("samples", [1, 5])  # dual and primal
@pytest.mark.parametrize("cell", CELLS)
def test_every_scale(cell, samples, scale):
    model, reference, loss = case(cell, "one", packed=False, samples=samples)
    check_exact(model, (reference,), loss, TargetSpaceConfig(ridge=0.1, ridge_scale=scale), step=STEP[cell])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stack", ["stacked", "both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_sampled_rows(cell, stack, packed):
    model, reference, loss = case(cell, stack, packed=packed)
    config = TargetSpaceConfig(ridge=0.1, reference=ReferenceConfig(rows=14))
    check_exact(model, (reference,), loss, config, step=STEP[cell])


@pytest.mark.parametrize(
    ("samples", "settings", "kept"),
    [
        (100, {}, 49),  # 2,048 rows and more
        (48, {}, None),
        (100, {"method": "ocu"}, None),
        (100, {"reference": ReferenceConfig(rows="all")}, None),
        (100, {"reference": ReferenceConfig(rows=84)}, 2),
        (100, {"reference": ReferenceConfig(rows=85)}, 3),
        (100, {"reference": ReferenceConfig(rows=4200)}, None),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_are_all_those_of_some_samples(samples, settings, kept, batch_first):
    steps, model = 42, nn.LSTM(3, 4, batch_first=batch_first)
    x = torch.randn((samples, steps, 3) if batch_first else (steps, samples, 3))
    space = TargetSpace(model, x, TargetSpaceConfig(**settings))
    (layer,) = space.layers
    assert layer.solver.ridge == (1.0 if kept is None else kept / samples)
    if kept is None:
        assert layer.rows is None
        assert space.targets["l0"].shape == (*x.shape[:2], 16)
        return
    assert space.targets["l0"].shape == (kept * steps, 16)
    index = torch.arange(samples * steps).view(x.shape[:2])
    chosen = index[layer.part.samples] if batch_first else index[:, layer.part.samples]
    assert torch.equal(layer.rows, chosen.flatten())
    assert len(layer.part.samples) == kept


@pytest.mark.parametrize(("inputs", "steps", "kept"), [(30, 10, 260), (30, 300, 16), (30, 1, None)])
def test_a_wide_layer_keeps_32_rows_for_each_input_and_16_samples(inputs, steps, kept):
    (layer,) = TargetSpace(nn.RNN(inputs, 50), torch.randn(steps, 400, inputs)).layers  # 81 columns
    assert layer.rows is None if kept is None else len(layer.rows) == kept * steps


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_projection_walks_the_real_run(cell, packed, method):
    model, reference, _ = case(cell, "stacked both ways", packed=packed)
    config = TargetSpaceConfig(ridge=0.1, method=method, step_scale=1.0)
    space = TargetSpace(model.double(), reference, config)
    random_targets(space, torch.Generator().manual_seed(0))
    literal = Literal(model, space.targets, ridge=0.1, scale=config.ridge_scale, method=method)
    space.project()
    literal.project(reference)
    for name, target in space.targets.items():
        assert close(target, literal.targets[name]), name
    for name, value in literal.weights(reference).items():
        assert close(model.get_parameter(name), value), name


def test_the_forget_bias_is_in_the_layers_bias_and_nowhere_else():
    solved = {}
    for forget in (0.0, 1.0, 2.5):
        model, reference, _ = case("lstm", "one", packed=False)
        config = TargetSpaceConfig.paper(0.1, forget_bias=forget, init_std=1.0)
        space = TargetSpace(model.double(), reference, config)
        with torch.no_grad():
            space.targets["rnn.l0"].zero_()
        space.solve()
        solved[forget] = {name: p.detach().clone() for name, p in model.rnn.named_parameters()}
    for forget, values in solved.items():
        # targets of zero: nothing but the forget bias
        expected = torch.zeros(16, dtype=torch.float64)
        expected[4:8] = forget
        torch.testing.assert_close(values.pop("bias_ih_l0"), expected, rtol=0, atol=1e-14)
        assert not any(value.abs().max() > 1e-14 for value in values.values())


@pytest.mark.parametrize("init", ["projected", "normalised", "weights"])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_never_enters(cell, init):
    config = TargetSpaceConfig(ridge=0.1, init=init, exclude=["rnn_input"])  # which does see the padding
    found = []
    for padding in (0.0, 1e6):
        model, reference, loss = case(cell, "both ways", packed=True)
        for sequence, length in zip(reference, model.lengths[len(reference)], strict=True):
            sequence[length:] = padding
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*do not span")
            space = TargetSpace(model.double(), _embedded(model, reference), config)
        assert all(t.shape[:1] == (18,) for t in space.targets.values() if t.dim() == 2)
        loss(model).backward()
        space.pullback()
        found.append([*model.rnn.parameters(), *(t.grad for t in space.targets.values())])
    for clean, padded in zip(*found, strict=True):
        assert torch.equal(clean, padded)


def _embedded(model, reference):
    """The reference forward with an embedding."""
    model.embed = nn.Identity()
    model.rnn_input = nn.Parameter(torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    model.embed.forward = lambda x: x @ model.rnn_input
    return lambda: model(reference)


def test_an_activation_in_place_behind_a_layer_in_ocu():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.act, self.readout = nn.RNN(3, 4), nn.LeakyReLU(0.3, inplace=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.readout(self.act(self.rnn(x)[0]))

    torch.manual_seed(0)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    check_exact(Net(), (x,), lambda run: run(x[:3]).square().sum(), TargetSpaceConfig(ridge=0.1, method="ocu"))
