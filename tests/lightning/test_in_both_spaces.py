"""Optimizers, schedulers and callbacks of torch and Lightning: each a fit in target space and in weight space."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from torch import nn, optim
from torch.optim import lr_scheduler

from tests.support.fits import CONFIG, Plain, build, data, loader, trainer
from ts_lightning import TargetSpaceMixin

try:
    from lightning.pytorch.callbacks import EMAWeightAveraging
except ImportError:  # before Lightning 2.6
    EMAWeightAveraging = None


class Both(TargetSpaceMixin, Plain):
    """``schedule`` makes a scheduler from the optimizer; ``lr`` and ``batch_size`` are what finders look for."""

    schedule = None
    lr, batch_size = 0.002, 16

    def __init__(self, **options):
        super().__init__(**options)
        self.backbone, self.head = self.net[:-1], self.net[-1]

    def train_dataloader(self):
        return loader(self.batch_size)

    def val_dataloader(self):
        return loader(64)

    def on_train_start(self):
        with torch.no_grad():
            self.start = float(self.loss(data()))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = self.make([p for p in self.parameters() if p.requires_grad])
        return optimizer if self.schedule is None else ([optimizer], [self.schedule(optimizer)])


def trained(space, callbacks=(), schedule=None, **options):
    """The model after a few epochs, its Trainer, and the loss of the weights that they began with."""
    model = build(Both, optimizer=options.pop("optimizer", lambda p: optim.Adam(p, lr=0.002)))
    model.target_space, model.schedule = (CONFIG if space == "target" else None), schedule
    model.batch_size = options.pop("batch_size", model.batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(**{"max_epochs": 8, "callbacks": list(callbacks), **options})
        run.fit(model)
    return model, run, model.start


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-4),
    "Adam": lambda p: optim.Adam(p, lr=0.002, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.002),
    "NAdam": lambda p: optim.NAdam(p, lr=0.002),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01),
    "Adamax": lambda p: optim.Adamax(p, lr=0.005),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.002),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.02),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "Rprop": lambda p: optim.Rprop(p, lr=0.002),
    "ASGD": lambda p: optim.ASGD(p, lr=0.02),
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.1, max_iter=4),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.02),
    "Muon": lambda p: optim.Muon([q for q in p if q.dim() == 2], lr=0.02),
}


@pytest.mark.parametrize("space", ["target", "weight"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, space):
    if not hasattr(optim, name):
        pytest.skip(f"this torch has no {name}")
    # without a line search LBFGS needs one function: from batch to batch it diverges at some seeds
    batch_size = 64 if name == "LBFGS" else 16
    model, _, start = trained(space, optimizer=OPTIMIZERS[name], batch_size=batch_size, max_epochs=4)
    assert float(model.loss(data()).detach()) < start
    assert all(bool(p.isfinite().all()) for p in model.parameters())


SCHEDULES = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "cosine by the step": lambda o: {"scheduler": lr_scheduler.CosineAnnealingLR(o, 32), "interval": "step"},
    "cycle": lambda o: {"scheduler": lr_scheduler.OneCycleLR(o, 0.004, 32), "interval": "step"},
    "plateau": lambda o: {"scheduler": lr_scheduler.ReduceLROnPlateau(o), "monitor": "loss"},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_weight_space(name):
    rates = {}
    for space in ("target", "weight"):
        seen = rates[space] = []

        class Recorded(torch.optim.Adam):
            def step(self, closure=None, seen=seen):
                seen.append(self.param_groups[0]["lr"])
                return super().step(closure)

        model, _, start = trained(space, schedule=SCHEDULES[name], optimizer=lambda p: Recorded(p, lr=0.002))
        assert float(model.loss(data()).detach()) < start
    assert rates["target"] == rates["weight"] or name == "plateau"  # which follows the loss
    assert len(rates["target"]) == len(rates["weight"])


CALLBACKS = {
    "swa": lambda path: StochasticWeightAveraging(0.001, swa_epoch_start=4),
    "pruning": lambda path: ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.2),
    "finetuning": lambda path: BackboneFinetuning(3),
    "rate finder": lambda path: LearningRateFinder(min_lr=1e-4, max_lr=1e-2, num_training_steps=8),
    "batch finder": lambda path: BatchSizeFinder(max_trials=2, steps_per_trial=1, init_val=8),
    "early stopping": lambda path: EarlyStopping("loss", patience=20),
    "checkpoints": lambda path: ModelCheckpoint(path, monitor="loss", save_top_k=2, save_last=True),
    "accumulation": lambda path: GradientAccumulationScheduler({2: 2}),
    "rates": lambda path: LearningRateMonitor(),
    "timer": lambda path: Timer(),
}
if EMAWeightAveraging is not None:
    CALLBACKS["ema"] = lambda path: EMAWeightAveraging(decay=0.9)


@pytest.mark.parametrize("space", ["target", "weight"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(name, space, tmp_path):
    options = {"enable_checkpointing": True} if name == "checkpoints" else {}
    logger = CSVLogger(tmp_path) if name == "rates" else False
    start = float(build(Both).loss(data()).detach())
    model, run, _ = trained(
        space, [CALLBACKS[name](tmp_path / "kept")], logger=logger, default_root_dir=tmp_path, **options
    )
    assert run.current_epoch >= 8
    assert float(model.loss(data()).detach()) < 1.05 * start
    zeros = [float((m.weight == 0).float().mean()) for m in model.modules() if isinstance(m, nn.Linear)]
    assert (min(zeros) >= 0.1) == (name == "pruning")
