"""``export``: weights for use without this package, as a plain checkpoint, safetensors and ONNX."""

import errno
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.plain import Keyed, Net
from tests.cli.solved import Solved
from tests.support.fits import assert_equal
from tests.support.processes import run
from tests.support.runs import done, mistake, program
from ts_lightning.cli.main import main
from ts_lightning.recipes import cnn_images, lstm_nlp
from ts_lightning.recipes._text_classifier import TextClassifier

POINTS = torch.arange(12.0).reshape(4, 3)
WEIGHT = ["--target_space", "null"]


class InSetup(Net):
    """Makes its layers where a Trainer begins."""

    def __init__(self, width: int = 8, lr: float = 0.02):
        super().__init__(width, lr)
        self.kept = [self.net]
        del self.net

    def setup(self, stage):
        [self.net] = self.kept


def trained(folder, *options):
    """The checkpoint of a plain module, trained by the command line."""
    net = ["--model", "tests.cli.plain.Net", "--model.width", "5", "--data", "tests.cli.plain.Points"]
    short = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--out", folder]
    done(main, "fit", *net, *short, *options, drawn=False)
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("net") / "run", "--target_space.ridge", "0.5")


def exported(checkpoint, out, *options):
    ended = program(main, "export", checkpoint, out, *options)
    assert ended.code == 0, str(ended)
    assert ended.out.startswith(f"{out}: ")
    return out


def read_alone(file):
    """What a network of the file's weights gives where an import of this package fails."""
    for name in ["ts_lightning", *(name for name in sys.modules if name.startswith("ts_lightning."))]:
        sys.modules[name] = None
    model = Net.load_from_checkpoint(file, strict=True).eval()
    assert model.hparams.width == 5
    return model(POINTS).detach()


def test_a_plain_checkpoint_is_read_where_this_package_is_not(checkpoint, tmp_path):
    file = exported(checkpoint, tmp_path / "plain.ckpt")
    assert not {name for name in torch.load(file, weights_only=True) if "target_space" in name}
    assert torch.equal(run(read_alone, file)[0], Net.load_from_checkpoint(checkpoint).eval()(POINTS))


def test_a_plain_checkpoint_is_read_by_a_class_with_the_mixin_too(checkpoint, tmp_path):
    file = exported(checkpoint, tmp_path / "new" / "plain.ckpt")
    assert_equal(Solved.load_from_checkpoint(file, strict=True), Net.load_from_checkpoint(checkpoint))


def test_safetensors_has_the_weights_by_name(checkpoint, tmp_path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    found = load_file(exported(checkpoint, tmp_path / "net.safetensors"))
    assert_equal(found, torch.load(checkpoint, weights_only=True)["state_dict"])


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
@pytest.mark.parametrize("name", ["net.safetensors", "net.ckpt"])
def test_a_file_has_the_mode_of_any_other(name, checkpoint, tmp_path):
    (tmp_path / "other").touch()
    assert exported(checkpoint, tmp_path / name).stat().st_mode == (tmp_path / "other").stat().st_mode


def assert_same(file, model, x):
    """The ONNX model gives what the module does on a batch of another size than it was traced with."""
    (found,) = pytest.importorskip("onnx.reference").ReferenceEvaluator(str(file)).run(None, _fed(file, x))
    with torch.no_grad():
        expected = model.eval()(x)
    assert len(x) not in (1, 2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def _fed(file, x):
    import onnx

    (given,) = onnx.load(file).graph.input
    return {given.name: x.numpy()}


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_a_dense_network(checkpoint, tmp_path):
    pytest.importorskip("onnxscript")
    file = exported(checkpoint, tmp_path / "net.onnx")
    assert_same(file, Net.load_from_checkpoint(checkpoint), torch.randn(7, 3))


@pytest.mark.filterwarnings("ignore")
def test_onnx_where_batches_are_dictionaries(tmp_path):
    pytest.importorskip("onnxscript")
    keyed = ["--model", "tests.cli.plain.Keyed", "--data", "tests.cli.plain.KeyedPoints"]
    checkpoint = trained(tmp_path / "run", *keyed, "--target_space.ridge", "0.5")
    file = exported(checkpoint, tmp_path / "keyed.onnx")
    assert_same(file, Keyed.load_from_checkpoint(checkpoint), torch.randn(7, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keyed.onnx", "run"]  # weights are within


@pytest.mark.filterwarnings("ignore")
def test_onnx_in_weight_space_needs_an_input(tmp_path):
    pytest.importorskip("onnxscript")
    checkpoint = trained(tmp_path / "run", *WEIGHT)
    error = mistake(main, "export", checkpoint, tmp_path / "net.onnx")
    assert "has no reference batch to call the module with: add --input FILE" in error
    torch.save(torch.randn(2, 3), tmp_path / "x.pt")
    file = exported(checkpoint, tmp_path / "net.onnx", "--input", tmp_path / "x.pt")
    assert_same(file, Net.load_from_checkpoint(checkpoint), torch.randn(7, 3))


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_the_convolutional_recipe(tmp_path):
    pytest.importorskip("onnxscript")
    generator = np.random.default_rng(0)
    arrays = {f"x_{split}": generator.random((12, 8, 8), np.float32) for split in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays, y_train=np.arange(12) % 3, y_test=np.arange(12) % 3)
    data = ["--data.source", "npz", "--data.file", tmp_path / "x.npz"]
    options = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--out", tmp_path / "run"]
    done(cnn_images.main, *data, *options, drawn=False)
    file = exported(tmp_path / "run" / "last.ckpt", tmp_path / "cnn.onnx")
    model = cnn_images.ImageClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    assert_same(file, model, torch.rand(3, 1, 8, 8))


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_the_recurrent_recipe(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("tokenizers")
    rows = [f"text {i} has a {('cat', 'dog')[i % 2]} in it,{i % 2}" for i in range(20)]
    (tmp_path / "x.csv").write_text("\n".join(["text,label", *rows]))
    file = tmp_path / "x.csv"
    data = ["--data.source", "csv", "--data.file", file, "--data.test_file", file, "--data.length", "6"]
    small = ["--model.embedding", "4", "--model.units", "5", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    done(lstm_nlp.main, *data, *small, "--out", tmp_path / "run", drawn=False)
    file = exported(tmp_path / "run" / "last.ckpt", tmp_path / "lstm.onnx")
    model = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    assert_same(file, model, model.encoder(["a cat", "it has a dog in it", "text 3"]).ids)


def test_mistakes(checkpoint, tmp_path):
    bare, damaged = tmp_path / "bare.ckpt", tmp_path / "damaged.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, bare)
    torch.save(weights, tmp_path / "weights.ckpt")
    torch.save(POINTS, tmp_path / "points.pt")
    (folder := tmp_path / "folder.onnx").mkdir()
    damaged.write_text("no checkpoint")
    (settings := tmp_path / "config.yaml").write_text("model: tests.cli.plain.Net\n")
    (empty := tmp_path / "empty.ckpt").touch()
    torch.save({"hyper_parameters": Path}, tmp_path / "paths.ckpt")
    whole = "not a file of tensors and built-in types; expected what torch.save or Lightning wrote."
    cases = [
        ([checkpoint, "net.pt"], "'net.pt': found the ending '.pt'; expected .ckpt, .safetensors, .onnx"),
        ([tmp_path / "nowhere.ckpt", "net.ckpt"], "nowhere.ckpt': cannot be read (No such file or directory)"),
        ([damaged, "net.ckpt"], f"damaged.ckpt': {whole}"),
        ([settings, "net.ckpt"], f"config.yaml': {whole}"),
        ([empty, "net.ckpt"], f"empty.ckpt': {whole}"),
        ([tmp_path / "paths.ckpt", "net.ckpt"], "built-in types (it holds pathlib.Path); expected what torch.save"),
        ([tmp_path / "weights.ckpt", "net.ckpt"], "found no state_dict in it; expected a Lightning checkpoint"),
        ([tmp_path / "points.pt", "net.ckpt"], "found no state_dict in it; expected a Lightning checkpoint"),
        ([checkpoint, folder], "folder.onnx': cannot be written (Is a directory)"),
        ([checkpoint, damaged / "net.ckpt"], "damaged.ckpt/net.ckpt': cannot be written ("),
        ([bare, "net.onnx"], "does not say the class of its module: add --model package.module.Class"),
        ([bare, "net.onnx", "--model", "nowhere.Net"], "--model nowhere.Net: cannot be imported"),
        ([bare, "net.onnx", "--model", "torch.nn.Linear"], "found no LightningModule; expected the class of one"),
        ([bare, "net.onnx", "--model", "tests.cli.plain.Net"], "bare.ckpt': cannot be loaded into Net ('pytorch-"),
        ([checkpoint, "net.onnx", "--model", "tests.cli.plain.Narrow"], "': cannot be loaded into Narrow ("),
        ([checkpoint, "net.onnx", "--model", "tests.cli.plain.Waiting"], "': cannot be loaded into Waiting ("),
        ([checkpoint], "out"),
        ([checkpoint, "net.ckpt", "--modle", "x"], "Expected one of"),
    ]
    for arguments, message in cases:
        assert message in mistake(main, "export", *arguments)


def test_of_layers_that_a_trainer_makes_it_says_where_they_belong(tmp_path):
    file = trained(tmp_path / "run", "--model", f"{__name__}.InSetup")
    said = mistake(main, "export", file, tmp_path / "net.onnx")
    assert 'InSetup: Unexpected key(s) in state_dict: "net.' in said
    assert "whose layers are made in __init__ or configure_model, since there is no setup here" in said


@pytest.mark.parametrize(("package", "name"), [("safetensors.torch", "net.safetensors"), ("onnxscript", "net.onnx")])
def test_a_package_that_is_missing_is_said(package, name, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'ts-lightning[export]'" in mistake(main, "export", checkpoint, tmp_path / name)


def test_what_the_exporter_cannot_translate_is_said_in_a_line(checkpoint, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("step 1 of 3") from TypeError("a size that depends on the data")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    said = mistake(main, "export", checkpoint, tmp_path / "net.onnx")
    assert "PyTorch's exporter cannot translate Net (a size that depends on the data)." in said
    assert ".ckpt or .safetensors" in said


def test_a_checkpoint_is_not_written_over_itself(checkpoint, tmp_path):
    before, link = checkpoint.read_bytes(), tmp_path / "link.ckpt"
    link.symlink_to(checkpoint)
    for file in (checkpoint, link):
        assert "found the checkpoint itself, which would lose its targets" in mistake(main, "export", checkpoint, file)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_tied_weights_and_extra_state(form, tmp_path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    weight = torch.arange(6.0).reshape(2, 3).T
    state = {"first": weight, "tied": weight, "net._extra_state": {"calls": 3}}
    torch.save({"state_dict": state}, tmp_path / "whole.ckpt")
    ended = program(main, "export", tmp_path / "whole.ckpt", out := tmp_path / f"out.{form}")
    assert ended.out == f"{out}: 12 weights\n", str(ended)
    if form == "safetensors":
        assert "without net._extra_state, which are no tensors" in ended.err
        assert_equal(load_file(out), {"first": weight, "tied": weight})
    else:
        assert torch.load(out, weights_only=True)["state_dict"]["net._extra_state"] == {"calls": 3}


@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "onnx"])
def test_a_full_disk_is_said_and_leaves_what_was_there(ending, checkpoint, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / f"net.{ending}"
    out.write_text("the last export")
    for writer in ("torch.save", "safetensors.torch.save_file", "torch.onnx.export"):
        monkeypatch.setattr(writer, full)
    error = mistake(main, "export", checkpoint, out)
    assert "A file cannot be written (" in error
    assert "No space left on device. Expected a disk with room for it" in error
    assert out.read_text() == "the last export"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_link_is_followed(checkpoint, tmp_path):
    (tmp_path / "new.ckpt").symlink_to(tmp_path / "there.ckpt")
    exported(checkpoint, tmp_path / "new.ckpt")
    assert (tmp_path / "new.ckpt").is_symlink()
    assert (tmp_path / "there.ckpt").is_file()
