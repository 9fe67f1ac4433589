"""LightningModules that were not written for it train in target space with the mixin and nothing else."""

import inspect
from collections import namedtuple

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.demos.transformer import LightningTransformer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.support.fits import data, fit, trainer
from ts_lightning import TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin


class Losses(Callback):
    """The mean of the module's own training loss, dropout off, at the start of training and at its end."""

    def __init__(self, batches, step):
        self.batches, self.step, self.found = batches, step, []

    def on_train_start(self, trainer, module):
        module.eval()
        with torch.no_grad():
            self.found.append(sum(float(self.step(batch)) for batch in self.batches) / len(self.batches))
        module.train()

    on_train_end = on_train_start


def test_boring_model():
    class Boring(TargetSpaceMixin, BoringModel):
        # at its learning rate of 0.1 BoringModel diverges in weight space too
        target_space = TargetSpaceConfig(step_scale=5.0)

    torch.manual_seed(0)
    model = Boring()
    losses = Losses(list(model.train_dataloader()), model.step)
    trainer(max_epochs=2, callbacks=[losses]).fit(model)
    assert list(model.target_space_engine.targets) == ["layer"]
    assert losses.found[1] < 0.97 * losses.found[0]


def test_boring_model_on_dictionaries():
    class Dictionaries(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            return {"y": torch.ones(2), "x": torch.full((32,), i / 64), "meta": f"sample {i}"}

    class Boring(TargetSpaceMixin, BoringModel):
        def step(self, batch):
            return self.loss(self(batch["x"]), batch["y"])

        def train_dataloader(self):
            return DataLoader(Dictionaries(), 4)

    torch.manual_seed(0)
    model = Boring()
    trainer(max_epochs=3, limit_val_batches=0).fit(model)
    assert model.target_space_engine.targets["layer"].shape == (64, 2)


class Tokens(Dataset):
    """Sequences that count upwards from a random start; the second half is to be predicted from the first."""

    def __init__(self, vocabulary, samples=48, length=4):
        start = torch.randint(vocabulary, (samples, 1), generator=torch.Generator().manual_seed(0))
        self.tokens = (start + torch.arange(2 * length)) % vocabulary
        self.length = length

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return self.tokens[i, : self.length], self.tokens[i, self.length :]


def test_transformer():
    class Lit(TargetSpaceMixin, LightningTransformer):
        def prepare_data(self):  # no download
            pass

    torch.manual_seed(0)
    loader = DataLoader(Tokens(11), 16, shuffle=True)
    model = Lit(vocab_size=11)
    losses = Losses(list(loader), lambda batch: model.training_step(batch, 0))
    trainer(max_epochs=4, callbacks=[losses]).fit(model, loader)
    names = list(model.target_space_engine.targets)
    assert "model.decoder" in names
    # two dense layers in each of four blocks, and an attention's two projections in six places
    assert len(names) == 21
    assert losses.found[1] < 0.5 * losses.found[0]


class Digits(LightningModule):
    """The usual first example: a convolutional classifier with dropout, a schedule, logging and validation."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True), nn.Dropout2d(0.1), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return functional.log_softmax(self.classifier(self.features(x)), dim=1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = functional.nll_loss(self(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)]


def strokes(samples=160):
    """Images 12 x 12 of four kinds of strokes, shifted and noisy."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 4
    images = 0.3 * torch.randn(samples, 1, 12, 12, generator=generator)
    shifts = torch.randint(8, (samples,), generator=generator)
    line = torch.arange(8)
    for image, kind, shift in zip(images, y.tolist(), shifts.tolist(), strict=True):
        places = {0: (line, shift), 1: (shift, line), 2: (line, line), 3: (line, line.flip(0))}[kind]
        image[0][places] += 2
    return TensorDataset(images, y)


def test_convolutional_classifier():
    class Lit(TargetSpaceMixin, Digits):
        pass

    torch.manual_seed(0)
    train = DataLoader(strokes(), 20, shuffle=True)
    model = Lit()
    run = fit(model, train, DataLoader(strokes(), 80), max_epochs=6)
    assert list(model.target_space_engine.targets) == ["features.0", "features.4", "classifier.0", "classifier.2"]
    assert float(run.callback_metrics["accuracy"]) > 0.9


Inputs = namedtuple("Inputs", ["left", "right"])
X = data()[0]


@pytest.mark.parametrize(
    ("forward", "batch", "expected"),
    [
        (lambda self, x: x, X, X),
        (lambda self, x: x, (X, 1), X),
        (lambda self, x: x, [X], X),
        (lambda self, x, mask=None: x, (X, X + 1), X),
        (lambda self, x, y: x + y, (X, X, 1), X + X),
        (lambda self, left, right: left - right, Inputs(X + 1, X), X + 1 - X),
        (lambda self, x: x, {"x": X, "y": 1}, X),
        (lambda self, x, y: x + y, {"y": X, "x": X, "z": 1}, X + X),
        (lambda self, x: x["a"], {"a": X}, "a dict with keys 'a', and forward() needs (x)"),
        (lambda self, x, y: x, X, "a tensor (64, 3), and forward() needs (x, y)"),
        (lambda self, x, y: x, (X,), "a tuple of (tensor (64, 3)), and forward() needs (x, y)"),
        (lambda self, x: x, "text", "a str, and forward() needs (x)"),
    ],
)
def test_the_forms_of_batch_that_the_reference_forward_knows(forward, batch, expected):
    model = type("Any", (TargetSpaceMixin, LightningModule), {"forward": forward})()
    assert inspect.signature(model.forward)
    if isinstance(expected, str):
        with pytest.raises(TargetSpaceError) as caught:
            model.reference_forward(batch)
        assert expected in str(caught.value)
        assert "Override reference_forward(batch)" in str(caught.value)
    else:
        assert torch.equal(model.reference_forward(batch), expected)


@pytest.mark.parametrize("batch", [torch.zeros(0, 32), (torch.zeros(0, 32), torch.zeros(0))])
def test_an_empty_reference_batch_is_refused(batch):
    class Boring(TargetSpaceMixin, BoringModel):
        def reference_batch(self):
            return batch

    with pytest.raises(TargetSpaceError, match=r"reference batch is empty: found .*tensor \(0, 32\)"):
        fit(Boring(), DataLoader(RandomDataset(32, 8)))
