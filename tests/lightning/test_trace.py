"""With the mixin Lightning does what it does without: hooks, calls of train_dataloader, transfers and forwards."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tests.support.fits import trainer
from ts_lightning import TargetSpaceMixin

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
CALLBACK_HOOKS = [name for name in dir(Callback) if name.startswith("on_")] + ["setup", "teardown"]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X.unbind())


def traced(owner, names, trace):
    """Let each of an owner's methods write its name down when it is called."""
    for name in names:
        own = getattr(owner, name)

        def called(*args, own=own, name=name, **kwargs):
            trace.append((type(owner).__name__, name))
            return own(*args, **kwargs)

        owner.__dict__[name] = called


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val", self(batch).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Target(TargetSpaceMixin, Plain):
    pass


class Data(LightningDataModule):
    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def train_dataloader(self):
        return DataLoader(Stream() if self.stream else X, 8)

    def val_dataloader(self):
        return DataLoader(X, 12)


MODULE_HOOKS = [
    "configure_callbacks",
    "configure_gradient_clipping",
    "configure_model",
    "configure_optimizers",
    "lr_scheduler_step",
    "on_after_backward",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_fit_end",
    "on_fit_start",
    "on_load_checkpoint",
    "on_save_checkpoint",
    "on_train_batch_end",
    "on_train_batch_start",
    "on_train_end",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_train_start",
    "on_validation_batch_end",
    "on_validation_start",
    "optimizer_step",
    "optimizer_zero_grad",
    "prepare_data",
    "setup",
    "teardown",
    "training_step",
    "validation_step",
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
        {"limit_train_batches": 0},
        {"reload_dataloaders_every_n_epochs": 1},
        {"max_epochs": 0},
    ],
    ids=["plain", "accumulated", "nothing trained", "reloaded", "no epochs"],
)
def test_the_same_hooks_in_the_same_order(stream, options):
    options = {"max_epochs": 2, **options}
    limit = options.pop("max_epochs")
    plain, target = (run(kind, stream, limit, options) for kind in (Plain, Target))
    assert len(plain) > 10
    assert target == plain


def run(kind, stream, max_epochs, options):
    trace = []
    torch.manual_seed(0)
    model, data, callback = kind(), Data(stream), Callback()
    traced(model, MODULE_HOOKS, trace)
    traced(data, ["prepare_data", "setup", "train_dataloader", "val_dataloader", "teardown"], trace)
    traced(callback, CALLBACK_HOOKS, trace)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fit = trainer(callbacks=[callback], max_epochs=max_epochs, num_sanity_val_steps=1, **options)
    fit.fit(model, datamodule=data)
    if options.get("limit_train_batches") == 0 or max_epochs == 0:
        assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    return [("Module" if owner == kind.__name__ else owner, name) for owner, name in trace]


def test_one_transfer_and_one_forward_for_each_batch_beside_those_on_the_reference_batch():
    counts = []
    for kind in (Plain, Target):
        seen = []

        class Counting(kind):
            counted = seen

            def on_after_batch_transfer(self, batch, dataloader_idx):
                self.counted.append("transfer")
                return batch

            def forward(self, x):
                if len(x) != 24:  # as many as the reference batch has
                    self.counted.append("forward")
                return super().forward(x)

        trainer(max_epochs=2).fit(Counting(), DataLoader(X, 8))
        counts.append((seen.count("transfer"), seen.count("forward")))
    (transfers, forwards), (with_reference, others) = counts
    assert (transfers, forwards) == (6, 6)
    assert (with_reference, others) == (transfers + 1, forwards)
