"""TargetSpaceMonitor against dense computations in float64, and what it must leave as it was."""

import math
import sys

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.literal import matrix, ridge_matrix
from benchmarks.literal_recurrent import cell, systems
from tests.support.fits import Lit, Plain, build, fit, loader
from tests.support.manual import Manual
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMixin, TargetSpaceMonitor

EVERY = {"log_every_n_steps": 1}
LAYERS = ("net.0", "net.2", "net.4")
OF_LAYERS = ("residual", "condition", "rank", "ridge", "weight_norm", "target_norm")
GRADIENTS = ("weight_gradient_norm", "target_gradient_norm")


def monitored(metrics):
    """What the monitor logged, without shares of time."""
    start = "target_space/"
    return {k: float(v) for k, v in metrics.items() if k.startswith(start) and not k.startswith(start + "share/")}


class Recurrent(nn.Module):
    def __init__(self, cell_class):
        super().__init__()
        self.rnn, self.readout = cell_class(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.readout(self.rnn(x)[0][:, -1])


def mlp(inputs):
    return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))


def cnn(groups):
    first, second = nn.Conv2d(4, 6, 3, padding=1, groups=groups), nn.Conv2d(6, 4, 3, stride=2, groups=groups)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


#: network, shape of a sample, reference samples, rows
CASES = {
    "primal": (lambda: mlp(5), (5,), 21, "auto"),
    "dual": (lambda: mlp(40), (40,), 15, "auto"),
    "few rows": (lambda: mlp(5), (5,), 21, 12),
    "convolutions": (lambda: cnn(1), (4, 6, 6), 9, "all"),
    "groups": (lambda: cnn(2), (4, 6, 6), 9, "all"),
    "groups, few rows": (lambda: cnn(2), (4, 6, 6), 9, 35),
    "groups, dual": (lambda: cnn(2), (4, 6, 6), 9, 10),
    "RNN": (lambda: Recurrent(nn.RNN), (5, 3), 8, "auto"),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 3), 8, "auto"),
    "LSTM, dual": (lambda: Recurrent(nn.LSTM), (5, 3), 1, "auto"),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 3), 8, "auto"),
    "GRU, dual": (lambda: Recurrent(nn.GRU), (5, 3), 1, "auto"),
}


class Case(TargetSpaceMixin, LightningModule):
    def __init__(self, name, method="scu", ridge_scale="variance"):
        super().__init__()
        make, shape, samples, rows = CASES[name]
        torch.manual_seed(0)
        self.net = make().double()
        reference = ReferenceConfig(size=samples, rows=rows)
        self.target_space = TargetSpaceConfig(method=method, ridge_scale=ridge_scale, ridge=0.3, reference=reference)
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(48, *shape, generator=generator, dtype=torch.float64)
        self.y = torch.randint(3, (48,), generator=generator)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x, self.y), 12)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.002)


class Gradients(Callback):
    """The norms of the gradients as they arrive, by quantity and layer."""

    def on_after_backward(self, trainer, pl_module):
        self.norms = {}
        for layer in pl_module.target_space_engine.layers:
            flat = torch.cat([p.grad.flatten() for p in layer.parameters])
            self.norms[f"target_space/weight_gradient_norm/{layer.name}"] = float(flat.norm())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        for name, target in pl_module.target_space_engine.targets.items():
            self.norms[f"target_space/target_gradient_norm/{name}"] = float(target.grad.norm())


def inputs_on_reference(model):
    """Each solved module's input in the model's own forward."""
    space, found = model.target_space_engine, {}
    handles = [
        layer.module.register_forward_pre_hook(lambda _, args, name=layer.module_name: found.update({name: args[0]}))
        for layer in space.layers
    ]
    with torch.no_grad():
        model(model.x[: space.config.reference.size])
    for handle in handles:
        handle.remove()
    return found


def linear_systems(layer, x, targets):
    """The (A, T) of a layer, several for groups and GRUs; (rows, d) and (rows, m)."""
    module = layer.module
    if not isinstance(module, nn.RNNBase):
        a = matrix(x, module)
        if layer.rows is not None:
            a = a[:, layer.rows]
        elif not isinstance(module, nn.Linear):
            targets = targets.movedim(1, -1)
        return list(zip(a, targets.reshape(-1, targets.shape[-1]).chunk(len(a), -1), strict=True))
    rows = []
    for sequence, wanted in zip(x, targets, strict=True):
        h = c = x.new_zeros(module.hidden_size)
        for step, z in zip(sequence, wanted, strict=True):
            rows.append(systems(module, step, h))
            h, c = cell(module, z, h, c, 1.0)
    a = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    n = module.hidden_size
    split = [2 * n, n, n] if isinstance(module, nn.GRU) else [targets.shape[-1]]
    return list(zip(a, targets.flatten(0, 1).split(split, -1), strict=True))


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in CASES), ("primal", {"ridge_scale": "feature"}), ("dual", {"ridge_scale": "feature"})],
)
def test_values_against_dense_computations(name, settings, options):
    model, gradients = Case(name, **settings), Gradients()
    run = fit(model, model.train_dataloader(), callbacks=[TargetSpaceMonitor(1), gradients], **EVERY, **options)
    found, space = monitored(run.callback_metrics), model.target_space_engine
    assert set(found) == {f"target_space/{q}/{n}" for q in OF_LAYERS + GRADIENTS for n in space.targets}
    inputs, scale = inputs_on_reference(model), settings.get("ridge_scale", "variance")
    for layer in space.layers:
        targets = space.targets[layer.name].detach() * layer.unit
        off = wanted = 0.0
        conditions, ranks, ridges = [], [], []
        for a, t in linear_systems(layer, inputs[layer.module_name], targets):
            r, gram = ridge_matrix(a, 0.3, scale), a.T @ a
            w = torch.linalg.solve(gram + r, a.T @ t)
            off, wanted = off + float((a @ w - t).square().sum()), wanted + float(t.square().sum())
            c, s2 = (0.3, r / 0.3) if scale == "feature" else (r[0, 0], torch.eye(len(r)).double())
            m = gram + r if len(a) >= len(r) else a @ s2.inverse() @ a.T + c * torch.eye(len(a)).double()
            conditions.append(float(torch.linalg.cond(m)))
            ranks.append(float(torch.linalg.solve(gram + r, gram).trace()))
            ridges.append(float(r.diagonal().mean()))
        weights = torch.cat([p.detach().flatten() for p in layer.parameters])
        expected = {
            "residual": math.sqrt(off / wanted),
            "rank": min(ranks),
            "ridge": max(ridges),
            "weight_norm": float(weights.norm()),
            "target_norm": float(targets.norm()),
        }
        for quantity, value in expected.items():
            assert found[f"target_space/{quantity}/{layer.name}"] == pytest.approx(value, rel=1e-9), quantity
        assert 0.5 * max(conditions) < found[f"target_space/condition/{layer.name}"] < max(conditions) * (1 + 1e-9)
    for key, value in gradients.norms.items():
        assert found[key] == pytest.approx(value, rel=1e-9)


def test_in_ocu_the_layers_are_all_there():
    model = Case("primal", method="ocu")
    found = monitored(fit(model, model.train_dataloader(), callbacks=[TargetSpaceMonitor(1)], **EVERY).callback_metrics)
    assert set(found) == {f"target_space/{q}/{n}" for q in OF_LAYERS + GRADIENTS for n in LAYERS}


def test_the_shares_of_the_time():
    metrics = fit(build(), callbacks=[TargetSpaceMonitor(1)], **EVERY).callback_metrics
    shares = [float(metrics[f"target_space/share/{part}"]) for part in ("solve", "main", "pullback")]
    assert min(shares) > 0
    assert sum(shares) <= 1


def test_the_scale_of_mixed_precision_is_taken_out():
    def norms(scale):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
        run = fit(build(), loader(64), max_epochs=1, plugins=plugins, callbacks=[TargetSpaceMonitor(1)], **EVERY)
        return {k: v for k, v in monitored(run.callback_metrics).items() if "gradient_norm" in k}

    assert norms(1024.0) == pytest.approx(norms(1.0), rel=0.02)  # half precision


@pytest.mark.parametrize("module", [Plain, type("Off", (Lit,), {"target_space": None})])
def test_in_weight_space_nothing_is_logged_and_that_is_said_once(module, monkeypatch):
    said = []
    monkeypatch.setattr("ts_lightning.callbacks.monitor.rank_zero_info", said.append)
    run = fit(build(module), callbacks=[TargetSpaceMonitor(1)], **EVERY)
    assert not monitored(run.callback_metrics)
    assert len(said) == 1
    assert "weight space" in said[0]


@pytest.mark.parametrize(
    ("cls", "options", "make"),
    [
        (Lit, {}, None),
        (Lit, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, None),
        (Lit, {}, lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3)),
        (Manual, {}, None),
    ],
)
def test_weights_are_the_same_bits_with_and_without_it(cls, options, make):
    models = [build(cls, optimizer=make, norm=True) for _ in range(2)]
    for model, callbacks in zip(models, ([], [TargetSpaceMonitor(2)]), strict=True):
        batches = loader(16, shuffle=True)
        torch.manual_seed(3)
        fit(model, batches, max_epochs=3, callbacks=callbacks, log_every_n_steps=2, **options)
    for value, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("fails", [True, False])
def test_the_space_is_left_as_it_was(fails):
    class Failing(Lit):
        def training_step(self, batch, batch_idx):
            if fails and batch_idx == 2:
                raise RuntimeError("no luck")
            return super().training_step(batch, batch_idx)

    model, monitor = build(Failing), TargetSpaceMonitor(1)
    if fails:
        with pytest.raises(RuntimeError, match="no luck"):
            fit(model, callbacks=[monitor], **EVERY)
    else:
        fit(model, callbacks=[monitor], **EVERY)
    space = model.target_space_engine
    assert not {"solve", "pullback"} & set(vars(space))
    assert all(layer.solver.observer is None for layer in space.layers)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_an_interval_that_cannot_be(value):
    with pytest.raises(ValueError, match="every_n_steps"):
        TargetSpaceMonitor(value)


def test_wandb_is_not_imported_without_its_logger(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it raises
    run = fit(build(), logger=CSVLogger(tmp_path), callbacks=[TargetSpaceMonitor(1)], **EVERY)
    assert monitored(run.callback_metrics)


@pytest.mark.parametrize(("log_every_n_steps", "said"), [(50, True), (2, False)])
def test_a_fit_in_which_nothing_was_observed_is_said(log_every_n_steps, said, caplog):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    fit(build(Lit), callbacks=[TargetSpaceMonitor()], max_epochs=1, log_every_n_steps=log_every_n_steps)
    assert ("observed nothing" in caplog.text) == said
