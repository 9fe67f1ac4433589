"""The recipe rnn_bits: what a run leaves, its network, and that it learns."""

import re

import pytest
import torch

from tests.support.runs import FILES, done, files, metrics
from ts_lightning.recipes import rnn_bits
from ts_lightning.recipes._recipe import first_step
from ts_lightning.recipes._recurrent import recurrent
from ts_lightning.report.history import Point

SPACES = {"target": [], "weight": ["--target_space", "null"]}


@pytest.mark.parametrize(
    ("space", "task", "cell", "units"),
    [("weight", "recall", "rnn", 6), ("target", "xor", "lstm", 8), ("target", "adder", "gru", 8)],
)
def test_a_run_leaves_its_files_and_a_table(space, task, cell, units, tmp_path):
    folder = tmp_path / "run"
    options = ["--data.task", task, "--model.cell", cell, "--data.delay", "3", "--trainer.max_steps", "6"]
    every = ["--trainer.val_check_interval", "3", *SPACES[space]]
    table = done(rnn_bits.main, *options, *every, "--out", folder).out
    assert files(folder) == FILES
    assert (folder / "figure.png").stat().st_size < 150_000
    assert f"{task} over 3 steps, {cell} of {units} units, {space} space: done after 6 steps" in table
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", table)
    assert re.search(r"first measured at 99.9% test accuracy +not reached", table)
    assert str(folder) in table
    assert metrics(folder, "steps") == [3, 6, 6]
    model = rnn_bits.BitClassifier.load_from_checkpoint(folder / "last.ckpt")
    assert model.network.recurrent.hidden_size == units
    assert (model.hparams.units, model.hparams.delay) == (units, 3)


@pytest.mark.parametrize(
    ("points", "said"),
    [([], "not measured"), ([0.5], "not reached"), ([0.5, 0.9995, 1.0], "1,500")],
)
def test_a_level_that_no_validation_could_measure_is_not_measured(points, said):
    class Kept:
        def points(self, name):
            return [Point(1500 * i, value, None) for i, value in enumerate(points)] if name == "test/accuracy" else []

    assert first_step(Kept(), "test/accuracy", rnn_bits.SOLVED) == said


@pytest.mark.parametrize("space", SPACES)
def test_a_vanilla_network_learns_to_recall(space, tmp_path):
    options = ["--data.delay", "2", "--trainer.max_steps", "150", "--model.lr", "0.01", *SPACES[space]]
    options += ["--data.batch_size", "40"]
    options += ["--trainer.val_check_interval", "75", "--out", tmp_path / "run"]
    table = done(rnn_bits.main, *options, drawn=False).out
    assert re.search(r"first measured at 99.9% test accuracy +(75|150)\n", table)


def test_logits_are_of_the_steps_asked_and_see_nothing_later():
    network = rnn_bits.BitNetwork("rnn", units=4, delay=3)
    x = torch.randint(2, (2, 10, 1)).float()
    logits = network(x)
    assert logits.shape == (2, 2, 7)
    x[:, 6] = 1 - x[:, 6]
    same = torch.isclose(logits, network(x)).all(dim=1).all(dim=0)
    assert same.tolist() == [True] * 3 + [False] * 4


@pytest.mark.parametrize("level", ["l0", "l1"])
@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_every_gate_starts_orthogonal_and_the_forget_gate_open(cell, gates, level):
    layer = recurrent(cell, 2, 5, layers=2)
    for gate in layer.get_parameter(f"weight_hh_{level}").split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5))
    biases = [layer.get_parameter(f"bias_{kind}_{level}").detach() for kind in ("ih", "hh")]
    total = sum(biases).reshape(gates, 5)
    assert total.unique(dim=1).flatten().tolist() == ([0, 1, 0, 0] if cell == "lstm" else [0] * gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_in_half_precision_gates_start_alike(cell, dtype):
    """As with ``--trainer.precision bf16-true``; torch has no orthogonal start there."""
    torch.set_default_dtype(dtype)
    try:
        layer = recurrent(cell, 4, 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.weight_hh_l0.dtype == dtype
    for gate in torch.split(layer.weight_hh_l0.float(), 8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=0.02, rtol=0)
