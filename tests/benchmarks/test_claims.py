"""What docs/claims.md is made by: quantities are what their names say; scripts lead from runs to table and figure."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks import generalisation, gradients, gradients_report, memory, optimizers
from benchmarks.cases import mlp
from benchmarks.peers.networks import Sequence
from benchmarks.peers.protocol import measure
from benchmarks.peers.results import Results
from benchmarks.peers.workload import Data, Split, Workload
from benchmarks.surface import loss_along


def _data(root=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(140, 4, generator=generator)
    whole = Split(x, (x[:, 0] * x[:, 1] > 0).long())
    return Data(whole.part(0, 80), whole.part(80, 110), whole.part(110, 140))


SMALL = Workload(
    "small", "", "small", partial(mlp, 3, 4, 8, 2, nn.ReLU), _data, 12, (0.5, 0.6, 0.9), "relu", batch=20, samples=80
)
NETS = {
    "mlp": gradients.Network("MLP", partial(mlp, 3, 4, 8, 2)),
    "rnn": gradients.Network("RNN", partial(Sequence, nn.RNN, 2, 5, 2), 6),
}


def _probe(name, space, seed=0):
    data = _data().train
    if NETS[name].steps is not None:
        data = Split(torch.randn(80, 6, 2, generator=torch.Generator().manual_seed(1)), data.y)
    return gradients.Probe(NETS[name], space, data, seed), data


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("space", gradients.SPACES)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.usefixtures("in_double")
def test_the_relative_gradient_is_how_much_the_loss_changes_for_a_relative_change_of_a_layer(name, space):
    probe, data = _probe(name, space)
    found = probe.backward(data.x, data.y)
    loss, distance = probe.loss, 1e-4
    gradient = [[p.grad.clone() for p in group] for group in probe.groups]

    def other_loss():
        if probe.engine is not None:
            probe.engine.solve()
        with torch.no_grad():
            return float(functional.cross_entropy(probe.model(data.x), data.y))

    for place, along in enumerate(gradient):
        ends = [
            loss_along([probe.groups[place]], [[sign * g for g in along]], other_loss, [distance])[0]
            for sign in (1, -1)
        ]
        assert (ends[0] - ends[1]) / (2 * distance * loss) == pytest.approx(found[place], rel=1e-3)


def test_a_probe_is_left_as_it_was():
    probe, data = _probe("mlp", "target")
    before = [[p.detach().clone() for p in group] for group in probe.groups]
    line = gradients.look(probe, data, 0, 3)
    assert len(line["changes"]) == len(line["batches"]) == 3
    assert all(
        torch.equal(p, old)
        for group, was in zip(probe.groups, before, strict=True)
        for p, old in zip(group, was, strict=True)
    )


def test_gradients_from_runs_to_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "NETWORKS", NETS)
    monkeypatch.setattr(gradients_report, "NETWORKS", NETS)
    lines = []
    for name in NETS:
        for space in gradients.SPACES:
            for seed in range(2):
                lines += gradients.measure(name, space, _probe(name, space)[1], seed, steps=2, draws=3)
    page = tmp_path / "claims.md"
    page.write_text("<!-- table: gradients -->\n<!-- end -->\n")
    gradients_report.write(lines, page, tmp_path / "gradients", tuple(NETS))
    assert page.read_text().count("\n| ") == 1 + 1 + 2 * 3
    assert (tmp_path / "gradients.png").stat().st_size > 10_000
    assert gradients_report.tail([1.0, 2.0, 8.0]) == 4


def test_optimizers_from_runs_to_the_page(tmp_path):
    file = tmp_path / "optimizers.jsonl"
    measure([SMALL], list(optimizers.CONTENDERS.values()), Results(file), tmp_path, 1, 2, say=lambda text: None)
    whole = optimizers.found(file, 1, [SMALL])
    table = optimizers.rows(whole)
    assert table.count("\n") == 1 + len(optimizers.CONTENDERS)
    optimizers.draw(whole, tmp_path / "optimizers")
    assert (tmp_path / "optimizers.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="no optimizer was measured"):
        optimizers.found(file, 2, [SMALL])


def test_test_accuracy_at_equal_training_loss_is_between_two_measurements():
    line = {"train": [(1.0, 0.5), (0.25, 0.8), (0.5, 0.7)], "test": [(2.0, 0.4), (1.0, 0.6), (9.0, 0.1)]}
    assert generalisation.at_level(line, 0.5) == pytest.approx((1.5, 0.5))
    assert generalisation.at_level(line, 0.25) == pytest.approx((1.0, 0.6))
    assert generalisation.at_level(line, 0.1) is None
    assert generalisation.at_level(line, 1.5) is None


def test_generalisation_from_runs_to_the_page(tmp_path):
    workloads = [replace(SMALL, steps=40), replace(SMALL, name="small-dropout", steps=40)]
    results = Results(tmp_path / "generalisation.jsonl")
    for workload in workloads:
        generalisation.measure(workload, results, tmp_path, 2, 2)
    lines = len(results.lines)
    generalisation.measure(workloads[0], results, tmp_path, 2, 2)
    assert len(results.lines) == lines == 2 * 2 * (2 + 2)
    whole = generalisation.reported(results, 2, workloads)
    assert generalisation.rows(whole, workloads).count("\n") == 1 + 2 * 2
    generalisation.draw(whole, workloads, tmp_path / "generalisation")
    assert (tmp_path / "generalisation.png").stat().st_size > 10_000


def test_dropout_is_behind_every_activation():
    net = generalisation.WORKLOADS["fashion-1000-dropout"].build()
    kinds = [type(layer) for layer in net.children()]
    assert all(kinds[i + 1] is nn.Dropout for i, kind in enumerate(kinds) if kind is nn.ReLU)
    assert kinds.count(nn.Dropout) == kinds.count(nn.ReLU) == 3


def test_memories_are_drawn_from_the_file(tmp_path):
    memory.draw(tmp_path / "memory")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
