"""After training every exporter sees a plain module."""

import pytest
import torch

from tests.support.fits import Plain, build, data, fit


@pytest.fixture(scope="module")
def trained():
    model = build(norm=True)
    fit(model)
    return model.eval()


def test_torch_export(trained):
    x, _ = data()
    program = torch.export.export(trained, (x,))
    torch.testing.assert_close(program.module()(x), trained(x))


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript(trained, method):
    x, _ = data()
    exported = trained.to_torchscript(method=method, example_inputs=x)
    torch.testing.assert_close(exported(x), trained(x))


def test_onnx(trained, tmp_path):
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    x, _ = data()
    trained.to_onnx(tmp_path / "model.onnx", x, input_names=["x"], dynamo=True)
    (y,) = reference.ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), trained(x).detach(), rtol=1e-4, atol=1e-5)


def test_safetensors(trained, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(trained, tmp_path / "model.safetensors")
    plain = build(Plain, seed=3, norm=True).eval()
    safetensors.load_model(plain, tmp_path / "model.safetensors")
    assert torch.equal(plain(data()[0]), trained(data()[0]))
