"""The harness of docs/evidence.md: the same trials and seeds for everyone, and peers that are what their names say."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.cases import mlp
from benchmarks.peers import data
from benchmarks.peers.__main__ import main as listed
from benchmarks.peers.contender import Contender, Learner
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.foof import Foof
from benchmarks.peers.muon import Muon
from benchmarks.peers.networks import Sequence
from benchmarks.peers.protocol import chosen, measure
from benchmarks.peers.results import Results
from benchmarks.peers.starts import start
from benchmarks.peers.target import make
from benchmarks.peers.training import begin, train
from benchmarks.peers.tuning import best, next_trial
from benchmarks.peers.workload import Data, Split, Workload, batches, measured_at
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning import TargetAdam


def _data(root=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(140, 4, generator=generator)
    whole = Split(x, (x[:, 0] * x[:, 1] > 0).long())
    return Data(whole.part(0, 80), whole.part(80, 110), whole.part(110, 140))


SMALL = Workload("small", "Tests", "small", partial(mlp, 3, 4, 8, 2), _data, 40, (0.5, 0.6, 0.9), batch=20, samples=80)


def _sgd(model, workload, data, setting):
    return Learner([torch.optim.SGD(model.parameters(), setting["lr"])], workload.steps)


LEARNING = Contender("learning", "learning", _sgd, (0.03, 0.1, 0.3), 0.1, {"unused": (0, 1)})
FIXED = Contender("fixed", "fixed", _sgd, (0.1,), 0.1)


def _search(contender, score, budget):
    trials = []
    while (setting := next_trial(contender, trials, budget)) is not None:
        trials.append({"setting": setting, "failed": None, "validation": [score(setting)]})
    return trials


def test_the_search_brackets_the_rate_and_tries_every_option():
    rates = tuple(10.0**-k for k in range(6, -1, -1))
    contender = Contender("c", "c", _sgd, rates, rates[3], {"start": ("a", "b"), "decay": (0, 1)})

    def score(setting):
        return -abs(rates.index(setting["lr"]) - 5) + (setting["start"] == "b") - setting["decay"]

    trials = _search(contender, score, 50)
    assert best(trials) == {"lr": rates[5], "start": "b", "decay": 0}
    known = [line["setting"] for line in trials]
    assert len(known) == len({str(setting) for setting in known}) < 12
    assert {"lr": rates[5], "start": "b", "decay": 1} in known
    assert [line["setting"] for line in _search(contender, score, 4)] == known[:4]  # more trials go on from fewer


def test_a_failed_trial_is_never_chosen():
    trials = [
        {"setting": {"lr": 1.0}, "failed": "the loss was nan", "validation": [0.9]},
        {"setting": {"lr": 0.1}, "failed": None, "validation": [0.1]},
    ]
    assert best(trials) == {"lr": 0.1}


def test_runs_stop_and_go_on_without_repeating_any(tmp_path):
    file = tmp_path / "peers.jsonl"
    options = {"trials": 3, "seeds": 2, "say": lambda text: None}
    assert not measure([SMALL], [LEARNING, FIXED], Results(file), tmp_path, **options, seconds=-1.0)
    assert not file.exists()
    assert measure([SMALL], [LEARNING], Results(file), tmp_path, **options)
    before = file.read_text()
    assert measure([SMALL], [LEARNING, FIXED], Results(file), tmp_path, **options)
    assert file.read_text().startswith(before)
    lines = Results(file).lines
    runs = [(line["contender"], line["seed"], str(line["setting"])) for line in lines]
    assert len(runs) == len(set(runs)) == 3 + 2 + 2
    for line in lines:  # the test split is not looked at while tuning
        assert len(line["test"]) == (0 if line["seed"] == 0 else len(line["at"]))
        assert line["at"] == measured_at(SMALL.steps)
    assert chosen(SMALL, FIXED, Results(file), 3) == {"lr": 0.1}


def test_every_contender_sees_the_same_mini_batches():
    split = _data().train
    first, second = batches(split, 20, 3), batches(split, 20, 3)
    seen = [next(first) for _ in range(8)]
    assert all(torch.equal(x, next(second)[0]) for x, _ in seen)
    epoch = torch.cat([x for x, _ in seen[:4]])
    assert torch.equal(epoch.sort(0).values, split.x.sort(0).values)


def test_learning_rates_rise_and_fall_to_zero():
    weight = nn.Parameter(torch.zeros(1))
    learner = Learner([torch.optim.SGD([weight], 1.0)], 100)
    rates = []
    for _ in range(100):
        rates.append(learner.optimizers[0].param_groups[0]["lr"])
        learner.step(lambda: weight.sum())
    assert max(rates) == rates[5] == 1.0
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_learns(name):
    if name in ("soap", "shampoo"):
        pytest.importorskip("pytorch_optimizer")
    contender, own = CONTENDERS[name], _data()
    found = train(SMALL, contender, own, contender.first, 1, tested=True)
    assert found["failed"] is None
    assert len(found["validation"]) == len(found["test"]) == len(measured_at(SMALL.steps))
    runner = begin(SMALL, contender, own, {**contender.first, "lr": 10 * contender.first["lr"]}, 1)
    losses = [runner.step() for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_loss_that_is_not_finite_ends_the_run():
    workload = replace(SMALL, build=partial(mlp, 3, 4, 8, 2, nn.ReLU))
    found = train(workload, FIXED, _data(), {"lr": 1e30}, 1, tested=False)
    assert "at step" in found["failed"]


def test_foof_solves_with_the_gram_matrix_of_the_inputs():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    x = torch.randn(40, 5)
    optimizer = Foof(layer, lr=1.0, damping=0.2, momentum=0.0)
    layer(x).square().sum().backward()
    before, gradient = layer.weight.detach().clone(), torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1)
    optimizer.step()
    a = torch.cat([x, torch.ones(40, 1)], 1).double()
    gram = a.T @ a / 40
    expected = gradient.double() @ (gram + 0.2 * gram.trace() / 6 * torch.eye(6)).inverse()
    torch.testing.assert_close((before - layer.weight).double(), expected[:, :5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [nn.Conv2d(2, 3, 3, padding=1), nn.RNN(2, 4, batch_first=True)])
def test_foof_sees_the_rows_that_the_weights_act_on(module):
    """Rows times weights are the pre-activations that the module computes."""
    from benchmarks.peers.foof import _rows, _weights

    x = torch.randn(3, 2, 5, 5) if isinstance(module, nn.Conv2d) else torch.randn(3, 6, 2)
    out = module(x)
    whole = torch.cat([p.flatten(1) if p.dim() > 1 else p[:, None] for p in _weights(module)], 1)
    z = _rows(module, x, out) @ whole.T
    if isinstance(module, nn.Conv2d):
        torch.testing.assert_close(z, out.flatten(2).transpose(1, 2).flatten(0, 1))
    else:
        torch.testing.assert_close((z + module.bias_hh_l0).tanh(), out[0].flatten(0, 1))


@pytest.mark.parametrize("shape", [(4, 18), (18, 4), (4, 2, 3, 3)])
def test_muon_makes_the_steps_of_pytorchs_but_for_its_half_precision(shape):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    matrix = nn.Parameter(weight.detach().clone().flatten(1))
    ours = Muon([weight], lr=0.1, weight_decay=0.3)
    theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.3)
    for _ in range(3):
        gradient = torch.randn(shape)
        weight.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(weight.flatten(1), matrix, rtol=0, atol=0.02)


def test_without_the_cascade_a_target_gets_its_own_layers_gradient_alone():
    """dL/dT = A (A'A + R)^-1 dL/dW of the layer, against dense solves."""
    torch.manual_seed(0)
    model, own = mlp(3, 4, 8, 2).double(), _data()
    own = Data(*(Split(split.x.double(), split.y) for split in (own.train, own.validation, own.test)))
    settings = {"lr": 0.1, "ridge": 0.5, "ridge_scale": "absolute", "step_scale": 1.0}
    learner = make(model, SMALL, own, settings, cascade_gradient=False)
    targets = learner.optimizers[0].param_groups[0]["params"]
    SMALL.loss(model(own.train.x), own.train.y).backward()
    expected, inputs = [], own.train.x
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            a = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
            gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1).T
            expected.append(a @ torch.linalg.solve(a.T @ a + 0.5 * torch.eye(a.shape[1]), gradient))
        inputs = layer(inputs).detach()
    learner._pull()
    assert len(targets) == 3
    for target, wanted in zip(targets, expected, strict=True):
        torch.testing.assert_close(target.grad, wanted)


@pytest.mark.parametrize("how", ["he", "orthogonal", "data"])
def test_starts_are_what_their_names_say(how):
    torch.manual_seed(0)
    model, x = mlp(6, 30, 40, 10), torch.randn(300, 30)
    start(model, how, "tanh", x)
    inside = model[4]
    if how == "orthogonal":
        torch.testing.assert_close(inside.weight @ inside.weight.T, (5 / 3) ** 2 * torch.eye(40))
    elif how == "he":
        assert float(inside.weight.detach().std()) == pytest.approx((2 / 40) ** 0.5, rel=0.1)
    else:
        for end in range(1, len(model) + 1, 2):
            assert float(model[:end](x[:200]).detach().std()) == pytest.approx(0.6, rel=1e-3)
    cell = Sequence(nn.LSTM, 2, 5, 3, 0)
    start(cell, how, "tanh", torch.randn(4, 6, 2))
    state = cell.recurrent.weight_hh_l0[:5]
    if how != "he":
        torch.testing.assert_close(state @ state.T, torch.eye(5))
    assert (cell.recurrent.bias_ih_l0[5:10] == 1).all()


def test_target_space_from_the_weights_of_weight_space_keeps_them():
    torch.manual_seed(0)
    model, other = (partial(mlp, 3, 4, 8, 2)() for _ in range(2))
    own = _data()
    torch.manual_seed(1)
    start(other, "data", SMALL.activation, own.train.x)
    torch.manual_seed(1)
    make(model, SMALL, own, {"lr": 0.002, "start": "weights"})
    for found, given in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, given)


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("target-default", TargetAdam, 0.002),
        ("target-auto", TargetAdam, 0.002),
        ("target", torch.optim.Adam, 0.002),
        ("target-sgd", torch.optim.SGD, 0.2),
    ],
)
def test_optimizers_of_targets_are_what_the_labels_say(name, kind, rate):
    (optimizer,) = make(SMALL.build(), SMALL, _data(), CONTENDERS[name].first).optimizers
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == pytest.approx(rate)


def test_sequences_are_answered_as_asked():
    for group, order in (("S3", 6), ("A5", 60)):
        product = data._products(group)
        assert len(product) == order
        a, b, c = torch.arange(order), torch.randint(order, (order,)), torch.randint(order, (order,))
        assert torch.equal(product[product[a, b], c], product[a, product[b, c]])
        assert torch.equal(product.sort(1).values, torch.arange(order).expand(order, order))
    words = data.words_of_group("S3", 5)
    assert (words.train.y.shape[1], words.test.y.shape[1]) == (5, 10)
    said = data.copying(7).test
    assert torch.equal(said.x[:, :10].argmax(-1), said.y)
    assert said.x.shape[1:] == (27, 10)


def test_workloads_have_rising_levels_and_networks_that_fit_their_data():
    names = ["tanh-5", "recall-20", "s3-16", "copying-50", "digits-100-relu", "diabetes", "wine"]
    for workload in WORKLOADS.values():
        assert list(workload.levels) == sorted(set(workload.levels))
    for name in names:
        workload = WORKLOADS[name]
        if name != "tanh-5":  # read from a folder
            split = workload.data(None).test.part(0, 3)
            assert workload.loss(workload.build()(split.x), split.y).isfinite()


def test_the_list_has_a_space_behind_every_name(capsys):
    listed(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [*WORKLOADS, *CONTENDERS]
    assert len({re.search(r"  +", line).end() for line in lines}) == 1
    assert "1 pixels" not in "".join(lines)


def test_images_are_read_from_an_archive_in_the_folder(tmp_path):
    x, y = np.zeros((2100, 8, 8, 3), np.uint8), np.arange(2100) % 10
    np.savez(tmp_path / "cifar10_20k.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    found = data.images(tmp_path, "cifar10")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [100, 2000, 20]


def test_digits_lie_in_no_folder(tmp_path):
    assert len(data.image_set(tmp_path, "digits", tmp_path / "cifar10_20k.npz").x_train) > 1000
