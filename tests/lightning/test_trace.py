"""With the mixin Lightning does what it does without: hooks, calls of train_dataloader, transfers and forwards."""

from collections import Counter

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import CombinedLoader
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


ROWS = 7  # of the reference batch, which tells its transfer and its forwards from the others

#: options of a fit and the loaders of its training data, by name
WAYS = {
    "plain": ({}, lambda: DataLoader(X, 8)),
    "accumulated": ({"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, lambda: DataLoader(X, 8)),
    "stream": ({}, lambda: DataLoader(Stream(), 8)),
    "validated": ({"val_check_interval": 1}, lambda: DataLoader(X, 8)),
    "list of loaders": ({}, lambda: [DataLoader(X, 8), DataLoader(X, 4)]),
    "dictionary of loaders": (
        {},
        lambda: CombinedLoader({"a": DataLoader(X, 8), "b": DataLoader(X, 12)}, "max_size"),
    ),
    "cycled loaders": ({}, lambda: CombinedLoader([DataLoader(X, 8), DataLoader(X, 12)], "max_size_cycle")),
}


def counting(kind, manual, seen):
    """A class that writes down each transfer and each forward that is none of the reference batch's."""

    class Counting(kind):
        automatic_optimization = not manual

        def reference_batch(self):
            return X[:ROWS]

        def on_before_batch_transfer(self, batch, dataloader_idx):
            seen["before", form(batch)] += 1
            return batch

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            seen["transfer", form(batch)] += 1
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            seen["after", form(batch)] += 1
            return batch

        def forward(self, x):
            seen["forward", len(x)] += 1
            return super().forward(x)

        def training_step(self, batch, batch_idx, *rest):
            batch = [*batch.values()] if isinstance(batch, dict) else batch
            batches = batch if isinstance(batch, (list, tuple)) else [batch]

            def loss():
                return sum(self(x).square().mean() for x in batches if x is not None)

            if not manual:
                return loss()
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(loss())
                optimizer.step()
            return None

        def configure_optimizers(self):
            if not manual:
                return super().configure_optimizers()
            return [torch.optim.Adam(layer.parameters(), lr=0.01) for layer in (self.net[0], self.net[2])]

    return Counting()


def form(batch):
    """The sizes of a batch's tensors."""
    if isinstance(batch, torch.Tensor):
        return len(batch)
    return tuple(form(item) for item in (batch.values() if isinstance(batch, dict) else batch) if item is not None)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_transfers_and_forwards_beside_those_of_the_reference_batch(way, manual):
    options, data = WAYS[way]
    if manual and way == "accumulated":
        pytest.skip("Lightning accumulates and clips in automatic optimisation alone")
    counts = []
    for kind in (Plain, Target):
        seen = Counter()
        torch.manual_seed(0)
        fit = trainer(max_epochs=2, **options)
        fit.fit(counting(kind, manual, seen), data(), DataLoader(X, 12))
        counts.append(seen)
    plain, target = counts
    reference = {key: target.pop(key) for key in list(target) if key[1] == ROWS}
    assert target == plain
    assert {name: count for (name, _), count in reference.items() if name != "forward"} == {
        "before": 1,
        "transfer": 1,
        "after": 1,
    }
    assert ("forward", 8) in plain
