"""Dropout in front of solved layers: which noise their solves expect, and exact gradients with it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from tests.support.exactness import check_each_target, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

RATE = 0.3
NOISE = RATE / (1 - RATE)
ALL = TargetSpaceConfig(ridge=0.1, step_scale=1.0, reference=ReferenceConfig(rows="all"))
SOME = TargetSpaceConfig(ridge=0.1, step_scale=1.0, reference=ReferenceConfig(rows=30))
FEW = TargetSpaceConfig(ridge=0.1, step_scale=1.0, reference=ReferenceConfig(rows=5))


class Attending(nn.Module):
    def __init__(self, two):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)
        self.dropout, self.two = nn.Dropout(RATE), two

    def forward(self, x):
        h = self.dropout(x)
        return self.out(self.attention(h, *((x, x) if self.two else (h, h)))[0])


class Recurrent(nn.Module):
    def __init__(self, kind, layers=1, packed=False, **options):
        super().__init__()
        self.rnn = kind(3, 4, layers, batch_first=True, dropout=RATE if layers > 1 else 0.0, **options)
        self.dropout, self.packed = nn.Dropout(RATE), packed
        self.out = nn.Linear(4 * (1 + self.rnn.bidirectional), 2)

    def forward(self, x):
        x = self.dropout(x)
        if self.packed:
            lengths = torch.arange(len(x)) % 3 + 3
            return self.out(self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0].data)
        return self.out(self.rnn(x)[0])


def dense(inputs=3):
    return nn.Sequential(nn.Dropout(RATE), nn.Linear(inputs, 6), nn.Tanh(), nn.Dropout(RATE), nn.Linear(6, 2))


class Contracted(nn.Module):
    """Weights of einsum, in a batch and from the left."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(size) / 2) for size in ((2, 3, 2), (2, 2, 3), (4, 5)))
        self.dropout = nn.Dropout(RATE)

    def forward(self, x):
        h = torch.tanh(torch.einsum("btd,hdk->bhtk", self.dropout(x), self.a))
        h = torch.tanh(torch.einsum("bhtk,hkm->bthm", self.dropout(h), self.b)).flatten(2)
        return self.c @ self.dropout(h)


def conv(bias=True, groups=1):
    first, second = nn.Conv2d(2, 4, 3, padding=1, groups=groups), nn.Conv2d(4, 4, 2, stride=2, bias=bias, groups=groups)
    return nn.Sequential(nn.Dropout(RATE), first, nn.ReLU(), nn.Dropout(RATE), second, nn.Flatten(), nn.Linear(16, 2))


SEQUENCES, IMAGES, ROWS = (6, 5, 3), (6, 2, 4, 4), (20, 3)
CASES = {
    "dense": (dense, ROWS, ALL, ["1", "4"]),
    "dense, dual": (lambda: dense(30), (8, 30), ALL, ["1", "4"]),
    "dense, feature": (dense, ROWS, TargetSpaceConfig(ridge=0.1, step_scale=1.0, ridge_scale="feature"), ["1", "4"]),
    "dense, optimistic": (dense, ROWS, TargetSpaceConfig(ridge=0.1, step_scale=1.0, method="ocu"), ["1", "4"]),
    "contractions": (Contracted, SEQUENCES, ALL, ["a", "b", "c"]),
    "conv": (conv, IMAGES, ALL, ["1", "4"]),
    "conv, sampled": (conv, IMAGES, SOME, ["1", "4"]),
    "conv, dual": (conv, IMAGES, FEW, ["1", "4"]),
    "conv, groups": (lambda: conv(False, 2), IMAGES, ALL, ["1", "4"]),
    "rnn": (lambda: Recurrent(nn.RNN), SEQUENCES, ALL, ["rnn.l0"]),
    "lstm, two": (lambda: Recurrent(nn.LSTM, 2), SEQUENCES, ALL, ["rnn.l0", "rnn.l1"]),
    "lstm, both ways": (
        lambda: Recurrent(nn.LSTM, 2, bidirectional=True), SEQUENCES, ALL,
        ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"],
    ),
    "lstm, packed": (lambda: Recurrent(nn.LSTM, 2, packed=True), SEQUENCES, ALL, ["rnn.l0", "rnn.l1"]),
    "gru": (lambda: Recurrent(nn.GRU, 2), SEQUENCES, ALL, ["rnn.l0", "rnn.l1"]),
    "gru, sampled, dual": (lambda: Recurrent(nn.GRU, 2, bias=False), SEQUENCES, FEW, ["rnn.l0", "rnn.l1"]),
    "attention": (lambda: Attending(False), (6, 5, 4), ALL, ["attention.in_proj"]),
    "attention to another": (lambda: Attending(True), (6, 5, 4), ALL, ["attention.in_proj"]),
}  # fmt: skip


def made(case):
    build, shape, config, noisy = CASES[case]
    torch.manual_seed(0)
    model = build().double()
    x = torch.randn(shape, dtype=torch.float64)
    space = TargetSpace(model, x, config)
    random_targets(space, torch.Generator().manual_seed(1))
    return model, x, space, noisy


@pytest.mark.parametrize("case", CASES)
def test_gradients_predict_finite_differences(case):
    model, _, space, noisy = made(case)
    expecting = [layer.name for layer in space.layers if any(solver.noise is not None for solver in layer.solvers)]
    assert expecting == noisy
    x = torch.randn(CASES[case][1], dtype=torch.float64)
    model.eval()  # the loss without noise; the reference pass knows the model as one with it
    weights = [torch.randn_like(p) for p in model.parameters()]

    def loss():
        return model(x).square().sum() + sum((w * p).sum() for w, p in zip(weights, model.parameters(), strict=True))

    for parameter in model.parameters():
        parameter.grad = None
    space.solve()
    loss().backward()
    space.pullback()
    check_each_target(space, loss, 1e-5, rel=2e-5, absolute=1e-6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", ["dense", "conv", "lstm, two"])
def test_the_gram_matrix_is_the_mean_over_masks(case):
    """Of the inputs that the second layer sees in training, all of whose own noise is that of one dropout."""
    torch.manual_seed(0)
    keep, draws = torch.rand(4000, 6, 5, dtype=torch.float64) >= RATE, torch.randn(6, 5, dtype=torch.float64)
    if case == "dense":
        layer, clean, noisy = nn.Linear(5, 2), draws, keep * draws / (1 - RATE)
        a, expected = clean, torch.einsum("kni,knj->ij", noisy, noisy) / len(noisy)
    elif case == "conv":
        layer, clean = nn.Conv1d(1, 2, 3, padding=1), draws.unsqueeze(1)
        noisy = (keep * draws / (1 - RATE)).flatten(0, 1).unsqueeze(1)
        a = patches(clean)
        expected = patches(noisy).mT @ patches(noisy) / len(keep)
    else:
        layer, clean = nn.LSTM(5, 4, batch_first=True), draws.unsqueeze(0)
        noisy = keep * draws / (1 - RATE)
        a, expected = draws, torch.einsum("kni,knj->ij", noisy, noisy) / len(noisy)
    model = nn.Sequential(nn.Dropout(RATE), layer.double())
    space = TargetSpace(model, clean, ALL)
    noise = space.layers[0].solver.noise
    found = a.mT @ a
    found += torch.diag(noise[: len(found)] * found.diagonal())
    assert not noise[len(found) :].any()
    # of 4,000 masks, each entry's mean to about 2 % of the scale of the diagonal
    torch.testing.assert_close(found, expected, rtol=0, atol=0.06 * float(expected.diagonal().mean()))


def patches(x):
    return functional.pad(x, (1, 1)).unfold(2, 3, 1).reshape(-1, 3)


FRONTS = {
    "itself": (lambda h, d: d(h), NOISE),
    "relu": (lambda h, d: functional.relu(d(h)), NOISE),
    "module and reshape": (lambda h, d: nn.Flatten()(nn.GELU()(d(h.unflatten(1, (3, 2))))), NOISE),
    "transposed": (lambda h, d: d(h.mT).mT.contiguous(), NOISE),
    "selected": (lambda h, d: d(torch.stack([h, h], 1))[:, -1], NOISE),
    "twice": (lambda h, d: d(d(h)), (1 + NOISE) ** 2 - 1),
    "gated": (lambda h, d: d(h) * torch.sigmoid(h), NOISE),
    "both gates": (lambda h, d: d(h) * d(h), (1 + NOISE) ** 2 - 1),
    "scaled": (lambda h, d: d(h) / 3, NOISE),
    "mean": (lambda h, d: d(torch.stack([h, h, h, h], 1)).mean(1), NOISE / 4),
    "pooled": (lambda h, d: functional.avg_pool1d(d(h.repeat_interleave(2, 1)), 2), NOISE / 2),
    "maximum": (lambda h, d: functional.max_pool1d(d(h.repeat_interleave(2, 1)), 2), NOISE),
    "functional": (lambda h, d: functional.dropout(h, RATE, d.training), NOISE),
    "channels": (lambda h, d: functional.dropout1d(h.unsqueeze(2), RATE, d.training).squeeze(2), NOISE),
    "not the branch beside it": (lambda h, d: h + 0 * d(h), 0.0),
    "residual": (lambda h, d: h + d(h), 0.0),
    "residual, in place": (lambda h, d: d(h).clone().add_(h), 0.0),
    "norm": (lambda h, d: functional.layer_norm(d(h), (6,)), 0.0),
    "always drawn": (lambda h, d: functional.dropout(h, RATE), 0.0),
    "of torch": (lambda h, d: torch.dropout(h, RATE, d.training), NOISE),
    "of torch, by keywords": (lambda h, d: torch.dropout(input=h, p=RATE, train=d.training), NOISE),
    "of torch, in place": (lambda h, d: torch.dropout_(h.clone(), RATE, d.training), NOISE),
    "of torch, always drawn": (lambda h, d: torch.dropout(h, p=RATE, train=True), 0.0),
    "alpha": (lambda h, d: torch.alpha_dropout(h, RATE, train=d.training), NOISE),
    "alpha, always drawn": (lambda h, d: torch.alpha_dropout(h, RATE, True), 0.0),
    "alpha, of channels": (lambda h, d: torch.feature_alpha_dropout(h, RATE, d.training), NOISE),
    "alpha, functional": (lambda h, d: functional.alpha_dropout(h, RATE, d.training), NOISE),
    "channels of torch": (lambda h, d: torch.feature_dropout(h.unsqueeze(2), RATE, d.training).squeeze(2), NOISE),
}


class Front(nn.Module):
    def __init__(self, front, rate=RATE):
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(3, 6), nn.Linear(6, 2), nn.Dropout(rate)
        self.front = front

    def forward(self, x):
        return self.second(self.front(torch.tanh(self.first(x)), self.dropout))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", FRONTS)
def test_noise_is_followed_to_the_layer(case, training):
    front, expected = FRONTS[case]
    model = Front(front).train(training)
    first, second = TargetSpace(model, torch.randn(9, 3)).layers
    assert first.solver.noise is None
    found = 0.0 if second.solver.noise is None else second.solver.noise[0]
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert second.solver.noise is None or second.solver.noise[-1] == 0  # of the bias


def test_the_rate_may_change_and_dropout_may_be_frozen():
    torch.manual_seed(0)
    model, x = Front(FRONTS["itself"][0]), torch.randn(9, 3)
    space = TargetSpace(model, x)
    layer = space.layers[1]
    model.dropout.p = 0.5
    space.solve()
    assert layer.solver.noise[0] == 1
    model.dropout.p = 1.0  # nothing is left, and nothing breaks
    space.solve()
    model.dropout.p = 0.5
    model.dropout.eval()
    space.solve()
    assert layer.solver.noise is None
    assert (model.dropout.p, model.dropout.training) == (0.5, False)


class Dropping(nn.Module):
    """Dropout of a module by its own mode, itself or through a function."""

    def __init__(self, how):
        super().__init__()
        self.how, self.module = how, nn.Dropout(RATE)

    def forward(self, h):
        if self.how == "module":
            return self.module(h)
        if self.how == "helper":
            return helper(h, self.training)
        return functional.dropout(h, RATE, self.training)


def helper(h, training):
    return torch.dropout(h, RATE, training)


@pytest.mark.parametrize("how", ["module", "functional", "helper"])
def test_a_module_that_is_kept_in_eval_mode_has_no_noise(how):
    """The noise of the dropout ahead of it goes on; one that is thawed has its own again."""
    part = Dropping(how)
    model = Front(lambda h, d: part(d(h)))
    model.part = part.eval()
    for front, expected in ((NOISE, NOISE), (0.0, 0.0)):
        model.dropout.p = RATE if front else 0.0
        space = TargetSpace(model, torch.randn(9, 3))
        noise = space.layers[1].solver.noise
        assert (0.0 if noise is None else float(noise[0])) == pytest.approx(expected)
        space.release()
    space = TargetSpace(model, torch.randn(9, 3))
    model.train()
    space.solve()
    assert float(space.layers[1].solver.noise[0]) == pytest.approx(NOISE)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_without_dropout_nothing_changes_bit_for_bit(kind):
    torch.manual_seed(0)
    x = torch.randn(6, 5, 3)
    plain = nn.Sequential(nn.Linear(3, 3), kind(3, 4, 2, batch_first=True))
    other = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), copy.deepcopy(plain[1]))
    frozen = nn.Sequential(nn.Linear(3, 3), nn.Dropout(RATE).eval(), copy.deepcopy(plain[1]))
    frozen[2].dropout = RATE
    frozen[2].eval()
    weights = []
    for model in (plain, other, frozen):
        torch.manual_seed(1)
        space = TargetSpace(model, x)
        space.solve()
        weights.append(list(model.parameters()))
    for first, *others in zip(*weights, strict=True):
        assert all(torch.equal(first, one) for one in others)
