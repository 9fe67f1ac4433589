"""``predict``, ``validate`` and ``test`` with a run's checkpoint."""

import pytest
import torch

from tests.cli.plain import Net, Points
from tests.support.runs import done, files, metrics
from ts_lightning.cli.main import main
from ts_lightning.cli.meant import replaced
from ts_lightning.recipes import rnn_bits
from ts_lightning.recipes.cnn_images import ImageClassifier

NET = ["--model", "tests.cli.plain.Net", "--data", "tests.cli.plain.Points", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    options = ["--trainer.max_epochs", "2", "--target_space.ridge", "0.5", "--out", folder]
    done(main, "fit", *NET, *options, drawn=False)
    return folder


def test_predict_writes_what_predict_step_gave(run, tmp_path):
    ended = done(main, "predict", *NET, "--ckpt_path", run / "last.ckpt", "--out", tmp_path / "out")
    assert f"{tmp_path}/out/predictions.pt: what predict_step returned, 4 batches" in ended.out
    assert "predictions.pt" in files(tmp_path / "out")
    assert "last.ckpt" not in files(tmp_path / "out")
    predictions = torch.load(tmp_path / "out" / "predictions.pt", weights_only=True)
    model = Net.load_from_checkpoint(run / "last.ckpt").eval()
    with torch.no_grad():
        expected = [model(x) for x, _ in Points().predict_dataloader()]
    torch.testing.assert_close(predictions, expected)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_measures_what_the_run_did(command, run, tmp_path):
    done(main, command, *NET, "--ckpt_path", run / "last.ckpt", "--out", tmp_path / "out")
    assert metrics(tmp_path / "out", "test/loss") == pytest.approx(metrics(run, "test/loss")[-1:])
    assert not {"last.ckpt", "summary.json", "figure.png"} & files(tmp_path / "out")


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ("tests.cli.plain.Keyed", ["--model.width", "4"], "--model {net} in place of tests.cli.plain.Keyed."),
        (
            "{net}",
            ["--model.width", "4", "--model.lr", "0.1"],
            "--model.width 8 in place of 4, --model.lr 0.02 in place of 0.1.",
        ),
        ("{net}", ["--model.width", "8"], None),
        ("{net}", [], None),
    ],
)
def test_what_a_checkpoint_replaces_is_said(module, options, said, run):
    net, file = NET[1], run / "last.ckpt"
    data = ["--model", module.format(net=net), *options, *NET[2:], "--ckpt_path", file]
    ended = done(main, "validate", *data, "--trainer.fast_dev_run", "1")
    text = f"--ckpt_path {file}: its hyperparameters are used, and not those of options and config files: "
    lines = [line.partition(text)[2] for line in ended.err.splitlines() if text in line]
    assert lines == ([] if said is None else [said.format(net=net)]), ended.err


@pytest.mark.parametrize("named", [True, False], ids=["any module", "a recipe's"])
def test_what_a_module_has_taken_from_its_data_replaces_nothing(named):
    """The command to resume that a run of cnn_images prints warned of shape and classes, which nobody had given."""
    kind = ImageClassifier
    path, prefix = ({"class_path": f"{kind.__module__}.{kind.__name__}"}, "init_args.") if named else ({}, "")
    said = {**path, f"{prefix}shape": None, f"{prefix}classes": None, f"{prefix}dropout": None}
    used = {**path, f"{prefix}shape": (1, 8, 8), f"{prefix}classes": 10, f"{prefix}dropout": 0.1}
    assert replaced(said, used, None if named else kind) == ["--model.dropout 0.1 in place of None"]
    assert replaced({**said, f"{prefix}classes": 3}, used, None if named else kind) == [
        "--model.classes 10 in place of 3",
        "--model.dropout 0.1 in place of None",
    ]


def test_a_recipe_predicts_with_the_checkpoint_of_its_run(tmp_path):
    small = ["--data.delay", "2", "--model.units", "3"]
    done(rnn_bits.main, *small, "--trainer.max_steps", "2", "--out", tmp_path / "run", drawn=False)
    done(rnn_bits.main, "predict", *small, "--ckpt_path", tmp_path / "run" / "last.ckpt", "--out", tmp_path / "out")
    predictions = torch.load(tmp_path / "out" / "predictions.pt", weights_only=True)
    assert [tuple(part.shape) for part in predictions] == [(500, 2, 50)] * 2
    data = rnn_bits.BitsDataModule(delay=2)
    data.setup()
    right = torch.cat(predictions).argmax(dim=1) == data.test.tensors[1]
    assert float(right.float().mean()) == pytest.approx(metrics(tmp_path / "run", "test/accuracy")[-1])
