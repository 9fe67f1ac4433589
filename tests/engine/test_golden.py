"""The authors' own code and this engine agree: solved weights, outputs, loss, gradients and projections."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ts_lightning import TargetSpace, TargetSpaceConfig


def load(name):
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data if data[key].dtype.kind != "U"}


def check(found, expected, tolerance=1e-9):
    assert found.shape == expected.shape
    found = found.detach()
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


class ChannelsLastFlatten(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def images(rows, size=6):
    """Rows [n h w, channels] as (n, channels, h, w)."""
    return rows.reshape(-1, size, size, rows.shape[-1]).permute(0, 3, 1, 2)


def as_rows(x):
    """The inverse of ``images``; dense quantities stay as they are."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) if x.dim() == 4 else x


def as_matrix(layer):
    """Weight and bias in the layout of ``W<l>``."""
    weight = layer.weight.movedim(1, -1) if layer.weight.dim() == 4 else layer.weight
    return torch.cat([layer.bias[:, None], weight.flatten(1)], 1).T


def dense():
    g = load("dense_scu")
    sizes = [2, 12, 12, 12, 2]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double(), g["Xbar"], g["X"], g


def cnn():
    g = load("cnn_even")
    act = nn.LeakyReLU(float(np.float32(0.2)))
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), act, nn.Conv2d(3, 4, 3, padding="same"), act, nn.MaxPool2d(2),
        ChannelsLastFlatten(), nn.Linear(36, 5), act, nn.Linear(5, 3),
    )  # fmt: skip
    return model.double(), g["Xbar"].permute(0, 3, 1, 2), g["X"].permute(0, 3, 1, 2), g


def state(targets):
    places = {name: [len(t), *t.shape[2:]] if t.dim() == 4 else list(t.shape[:-1]) for name, t in targets.items()}
    return {"targets": targets, "rows": {}, "places": places, "units": dict.fromkeys(targets, 1.0)}


def space_of(model, reference, g):
    solved = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    targets = {
        name: images(g[f"T{i}"]) if isinstance(layer, nn.Conv2d) else g[f"T{i}"]
        for i, (name, layer) in enumerate(solved.items())
    }
    return TargetSpace(
        model,
        reference,
        TargetSpaceConfig.paper(float(g["reg"])),
        state=state(targets),
    ), solved


@pytest.mark.parametrize("case", [dense, cnn])
def test_weights_outputs_loss_and_gradients(case):
    model, reference, x, g = case()
    space, solved = space_of(model, reference, g)
    for i, layer in enumerate(solved.values()):
        check(as_matrix(layer), g[f"W{i}"])
    # what each layer really produces on the reference batch
    for i, layer in enumerate(solved.values()):
        layer.register_forward_hook(lambda module, args, z, i=i: check(as_rows(z), g[f"Sbar{i}"]))
    with torch.no_grad():
        model(reference)
    for layer in solved.values():
        layer._forward_hooks.clear()
    logits = model(x)
    check(logits, g["out"])
    loss = functional.cross_entropy(logits, g["y"].long())
    check(loss, g["loss"])
    loss.backward()
    space.pullback()
    for i, name in enumerate(solved):
        check(as_rows(space.targets[name].grad), g[f"grad_T{i}"])


def test_projection():
    model, reference, x, g = dense()
    space, solved = space_of(model, reference, g)
    space.project()
    projected = load("dense_scu_keras_projection")
    for i, name in enumerate(solved):
        check(space.targets[name], projected[f"Tproj{i}"])
    check(model(x), projected["out_after_projection"])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.readout = nn.RNN(1, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.readout(self.rnn(x)[0])


def recurrent():
    g = load("rnn_hybrid")
    model = Recurrent().double()
    targets = {"rnn.l0": g["T0"], "readout": g["T1"]}
    return (
        model,
        TargetSpace(
            model,
            g["Xbar"],
            TargetSpaceConfig.paper(float(g["reg"])),
            state=state(targets),
        ),
        g,
    )


def test_a_recurrent_network():
    model, space, g = recurrent()
    rnn = model.rnn
    check(torch.cat([rnn.bias_ih_l0[None], rnn.weight_ih_l0.T, rnn.weight_hh_l0.T]), g["W0"])
    assert not rnn.bias_hh_l0.any()
    check(as_matrix(model.readout), g["W1"])
    with torch.no_grad():
        check(torch.atanh(rnn(g["Xbar"])[0]), g["Sbar0"])
        check(model(g["Xbar"]), g["Sbar1"])
    logits = model(g["X"])[int(g["delay"]) :]
    check(logits, g["out"])
    loss = functional.cross_entropy(logits.flatten(0, 1), g["y"].long().flatten())
    check(loss, g["loss"])
    loss.backward()
    space.pullback()
    for i, target in enumerate(space.targets.values()):
        check(target.grad, g[f"grad_T{i}"])


def test_projection_of_a_recurrent_network():
    model, space, g = recurrent()
    space.project()
    projected = load("rnn_hybrid_keras_projection")
    for i, target in enumerate(space.targets.values()):
        check(target.transpose(0, 1), projected[f"Tproj{i}"])
    check(model(g["X"]).transpose(0, 1), projected["out_after_projection"])
