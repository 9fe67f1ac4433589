"""A training run that can be gone on with at every step: its module, its data, and what is compared at the end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.support.changes import Change
from tests.support.fits import trainer
from ts_lightning import ReferenceConfig, TargetAdam, TargetSpaceConfig, TargetSpaceMixin

#: fewer rows than the convolution has on the reference batch, so that which ones were sampled matters
CONFIG = TargetSpaceConfig(reference=ReferenceConfig(size=24, rows=90))


class Preconditioned(torch.optim.Optimizer):
    """Has matrices of its own sizes for each parameter, as Shampoo and SOAP."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad.reshape(len(parameter), -1)
                rows, columns = gradient @ gradient.T, gradient.T @ gradient
                state = self.state[parameter] or {"rows": torch.eye(len(rows)), "columns": torch.eye(len(columns))}
                self.state[parameter] = {"rows": state["rows"] + rows, "columns": state["columns"] + columns}
                step = torch.linalg.solve(state["rows"], gradient) @ state["columns"].inverse()
                parameter.sub_(step.view_as(parameter), alpha=group["lr"])
        return loss


OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adafactor": torch.optim.Adafactor,
    "preconditioned": Preconditioned,
    "target adam": TargetAdam,
    "adaptive": partial(TargetAdam, adaptive_lr=True),
}


class PlainText(LightningModule):
    """An embedding and a norm, trained beside the targets; layers at places of samples, whose rows are sampled."""

    def __init__(self, optimizer="adam", batch_norm=True, width=8, dtype=torch.float32, lr=0.02):
        super().__init__()
        self.save_hyperparameters()
        norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
        self.embedding = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4)
        self.conv = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), norm, nn.Tanh())
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(36, width), nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, 2)
        )
        self.to(dtype)
        self.losses = []

    def forward(self, x):
        x = torch.tanh(self.mix(self.embedding(x).transpose(0, 1)))  # places before samples
        return self.head(self.conv(x.permute(1, 2, 0)))

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        if self.hparams.optimizer == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=3, history_size=4)
        optimizer = OPTIMIZERS[self.hparams.optimizer](self.parameters(), lr=self.hparams.lr)
        return [optimizer], [{"scheduler": StepLR(optimizer, 3, 0.7), "interval": "step"}]


class Text(TargetSpaceMixin, PlainText):
    target_space = CONFIG


class Changed(Text):
    """Is changed by its user."""

    change = Change()

    def on_train_batch_start(self, batch, batch_idx):
        self.change.before(self, self.global_step)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.change.after(self, self.global_step)


def texts(rows=48):
    x = torch.randint(0, 9, (rows, 6), generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + x[:, 3] > 8).long()


class Shuffled(torch.utils.data.Sampler):
    """Another order in every epoch, the same in every run."""

    def __init__(self, samples):
        self.samples, self.epoch = samples, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.samples

    def __iter__(self):
        return iter(torch.randperm(self.samples, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class Resumable(DataLoader):
    """Goes on in the middle of an epoch behind the batches that were given, as Lightning asks of a loader.

    Each of several ranks gets its share of the batches that one process gets.
    """

    def __init__(self, batch=12, rank=0, ranks=1):
        data = TensorDataset(*texts())
        super().__init__(data, batch, sampler=Shuffled(len(data)))
        self.__dict__.update(given=0, skipped=0, rank=rank, ranks=ranks)

    def __iter__(self):
        self.given, self.skipped = self.skipped, 0
        for batch in list(super().__iter__())[self.given :]:
            self.given += 1
            yield [tensor[self.rank :: self.ranks] for tensor in batch]

    def state_dict(self):
        return {"given": self.given % len(self)}

    def load_state_dict(self, state):
        self.skipped = state["given"]


def build(cls=Text, seed=0, **options):
    torch.manual_seed(seed)
    return cls(**options)


def with_reference(model, **options):
    model.target_space = replace(CONFIG, reference=replace(CONFIG.reference, **options))
    return model


def held_out():
    return DataLoader(TensorDataset(*texts(20)), 10)


def every_step(folder, **options):
    """Keeps a checkpoint of every step, ``folder/step=<number>.ckpt``."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, **options)


def fit(model, batches=None, val=None, ckpt_path=None, **options):
    kept = any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks", []))
    run = trainer(**{"max_epochs": 3, "enable_checkpointing": kept, **options})
    run.fit(model, Resumable() if batches is None else batches, val, ckpt_path=ckpt_path)
    return run


def everything(run):
    """The weights and buffers, the targets, and the optimizers' states, as one flat dictionary."""
    model = run.lightning_module
    found = {f"model {name}": value.clone() for name, value in model.state_dict().items()}
    space = getattr(model, "target_space_engine", None)
    if space is not None:
        found.update({f"targets {name}": target.detach().clone() for name, target in space.targets.items()})
    for i, optimizer in enumerate(run.optimizers):
        flat(f"optimizer {i}", optimizer.state_dict(), found)
    return found


def flat(name, value, found):
    if isinstance(value, dict):
        for key, item in value.items():
            flat(f"{name} {key}", item, found)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            flat(f"{name} {i}", item, found)
    elif value is not None:
        found[name] = torch.as_tensor(value).detach().clone()
