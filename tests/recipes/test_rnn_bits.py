"""The recipe rnn_bits: what a run leaves, its network, and that it learns."""

import csv
import re

import pytest
import torch
import yaml

from tests.recipes.runs import FILES, files
from ts_lightning.recipes import rnn_bits
from ts_lightning.recipes._recurrent import recurrent


@pytest.mark.parametrize(
    ("space", "task", "cell", "units"),
    [("weight", "recall", "rnn", 6), ("target", "xor", "lstm", 8), ("target", "adder", "gru", 8)],
)
def test_a_run_leaves_its_files_and_a_table(space, task, cell, units, tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--task", task, "--cell", cell, "--delay", "3", "--steps", "6", "--validate_every", "3"]
    rnn_bits.main([*options, "--space", space, "--out", str(folder)])
    assert files(folder) == FILES
    assert (folder / "figure.png").stat().st_size < 150_000
    table = capsys.readouterr().out
    assert f"{task} over 3 steps, {cell} of {units} units, {space} space: done after 6 steps" in table
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", table)
    assert re.search(r"first measured at 99.9% test accuracy +not reached", table)
    assert str(folder) in table
    with (folder / "metrics.csv").open() as lines:
        measured = [float(row["steps"]) for row in csv.DictReader(lines) if row["steps"]]
    assert measured == [3, 6, 6]
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert (settings["lr"], settings["units"]) == (rnn_bits.LEARNING_RATES[space], units)
    model = rnn_bits.BitClassifier.load_from_checkpoint(folder / "last.ckpt")
    assert model.network.recurrent.hidden_size == units


@pytest.mark.parametrize("space", ["target", "weight"])
def test_a_vanilla_network_learns_to_recall(space, tmp_path, capsys):
    options = ["--delay", "2", "--steps", "150", "--lr", "0.01", "--validate_every", "75"]
    rnn_bits.main([*options, "--space", space, "--out", str(tmp_path)])
    assert re.search(r"first measured at 99.9% test accuracy +(75|150)\n", capsys.readouterr().out)


def test_logits_are_of_the_steps_asked_and_see_nothing_later():
    network = rnn_bits.BitNetwork("rnn", units=4, delay=3)
    x = torch.randint(2, (2, 10, 1)).float()
    logits = network(x)
    assert logits.shape == (2, 2, 7)
    x[:, 6] = 1 - x[:, 6]
    same = torch.isclose(logits, network(x)).all(dim=1).all(dim=0)
    assert same.tolist() == [True] * 3 + [False] * 4


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_every_gate_starts_orthogonal_and_the_forget_gate_open(cell, gates):
    layer = recurrent(cell, 2, 5)
    for gate in layer.weight_hh_l0.split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5))
    total = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().reshape(gates, 5)
    assert total.unique(dim=1).flatten().tolist() == ([0, 1, 0, 0] if cell == "lstm" else [0] * gates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delay", "0"], "--delay: found 0; expected a number at least 1"),
        (["--units", "0"], "--units: found 0"),
        (["--batch_size", "8001"], "--batch_size: found 8001; expected a number at least 1 and below 8001"),
        (["--task", "and"], "adder"),
    ],
)
def test_a_mistake_ends_with_what_to_do_and_code_2(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        rnn_bits.main([*options, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
