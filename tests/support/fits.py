"""A LightningModule that knows nothing of target space, its data, and a quiet Trainer."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, callbacks
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceMixin

from_2_6 = pytest.mark.skipif(not hasattr(callbacks, "WeightAveraging"), reason="as Lightning does it from 2.6 on")

CONFIG = TargetSpaceConfig(
    ridge=0.1, ridge_scale="absolute", init="projected", step_scale=20.0, reference=ReferenceConfig(size=32)
)


def data(rows=64, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=dtype)
    return x, (x.prod(1) > 0).long()


def loader(batch=16, shuffle=False, rows=64, dtype=torch.float32):
    return DataLoader(TensorDataset(*data(rows, dtype)), batch, shuffle=shuffle)


class SavedAt(callbacks.Callback):
    """A checkpoint at the end of an epoch."""

    def __init__(self, path, epoch):
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


class Plain(LightningModule):
    """``optimizer`` makes the optimizer from the parameters; batches, losses and gradients are recorded."""

    def __init__(self, optimizer=None, width=8, dtype=torch.float32, norm=False):
        super().__init__()
        layers = [nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(width))
        self.net = nn.Sequential(*layers).to(dtype)
        self.make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.02))
        self.seen, self.losses, self.validated = [], [], []

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].clone())
        loss = self.loss(batch)
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append(self(batch[0]).detach().clone())

    def configure_optimizers(self):
        return self.make(self.parameters())


class Lit(TargetSpaceMixin, Plain):
    target_space = CONFIG


def build(cls=Lit, seed=0, **options):
    torch.manual_seed(seed)
    return cls(**options)


def trainer(**options):
    defaults = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(**{**defaults, **quiet, **options})


def fit(model, batches=None, val=None, ckpt_path=None, **options):
    run = trainer(**options)
    run.fit(model, loader() if batches is None else batches, val, ckpt_path=ckpt_path)
    return run


def _state(module):
    """The ``state_dict`` under the names that the module had before anything in it was compiled."""
    return {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}


def assert_equal(found, expected):
    """Two modules, or two dictionaries of tensors, hold the same under the same names, bit for bit."""
    found, expected = (_state(it) if isinstance(it, nn.Module) else it for it in (found, expected))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def assert_solved(model):
    """The module's weights are what its targets are solved to."""
    space = model.target_space_engine
    norm = any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    fresh = build(Plain, norm=norm, dtype=next(model.parameters()).dtype)
    fresh.load_state_dict(_state(model))
    state = {name: value for name, value in space.state_dict().items() if name != "written"}
    TargetSpace(fresh, state["reference"][0], space.config, state=state)
    assert_equal(model, fresh)
