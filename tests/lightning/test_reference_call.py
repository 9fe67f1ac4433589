"""The module is called with the reference batch as its training_step calls it, and a label is never an input."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tests.support.fits import trainer
from tests.support.points import PAIRS, Base, X, Y, fit
from ts_lightning import TargetSpaceError, TargetSpaceMixin, convert


class Views(Base):
    def training_step(self, batch, batch_idx):
        (one, two), _ = batch
        return (self(one) - self(two)).square().mean()


class WholeBatch(Base):
    def forward(self, batch):
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        loss = self(batch)
        self.log("loss", loss)
        return loss


class Unpacks(Base):
    """The signature does not say that x is the whole batch."""

    def forward(self, x):
        features, _ = x
        return self.net(features)

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean()


class Factor(Base):
    def forward(self, x, alpha):
        return self.net(x * alpha)

    def training_step(self, batch, batch_idx):
        return self(batch[0], 0.5).square().mean()


class LabelFirst(Base):
    def training_step(self, batch, batch_idx):
        y, x = batch
        return functional.cross_entropy(self(x), y)


class Bags(Base):
    """Texts one behind the other, and where each of them starts."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(9, 3)

    def forward(self, text, offsets):
        return self.net(self.embedding(text, offsets))

    def training_step(self, batch, batch_idx):
        label, text, offsets = batch
        return functional.cross_entropy(self(text, offsets), label)


class Optional(Base):
    """A mask that forward may be called without, and is not."""

    def forward(self, x, mask=None):
        return self.net(x if mask is None else x * mask)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(**{k: v for k, v in batch.items() if k != "y"}), batch["y"])


class NoForward(Base):
    forward = LightningModule.forward

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()


class Autoencoder(Base):
    """As in Lightning's first example: forward is the half that is used later."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 3)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return functional.mse_loss(self.decoder(torch.tanh(self.net(x))), x)


class Augmented(Factor):
    """What forward is given is made in training_step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return functional.cross_entropy(self(2 * x + 1, 0.5), y)


def bags(samples):
    labels, texts = zip(*samples, strict=True)
    offsets = torch.tensor([0, *(len(text) for text in texts)][:-1]).cumsum(0)
    return torch.stack(labels), torch.cat(texts), offsets


TEXTS = [(y, torch.arange(1 + i % 4) + i % 5) for i, y in enumerate(Y)]
#: module, samples, collate function, and what the solved layer has to receive
FORMS = {
    "two views": (Views, [((x, x + 1), y) for x, y in PAIRS], None, X),
    "the batch": (WholeBatch, PAIRS, None, X),
    "the batch by another name": (Unpacks, PAIRS, None, X),
    "a constant": (Factor, PAIRS, None, X / 2),
    "label first": (LabelFirst, [(y, x) for x, y in PAIRS], None, X),
    "text and offsets": (Bags, TEXTS, bags, None),
    "a dictionary": (Optional, [{"x": x, "mask": 2 * torch.ones(3), "y": y} for x, y in PAIRS], None, 2 * X),
    "no forward": (NoForward, PAIRS, None, X),
    "an autoencoder": (Autoencoder, PAIRS, None, X),
    "made in training_step": (Augmented, PAIRS, None, X + 0.5),
}


@pytest.mark.parametrize(("kind", "samples", "collate", "expected"), FORMS.values(), ids=FORMS)
def test_the_layer_receives_what_training_gives_it(kind, samples, collate, expected):
    torch.manual_seed(0)
    model = kind()
    start = model.net.weight.clone()
    fit(model, samples, collate)
    assert "net" in model.target_space_engine.targets
    assert ("decoder" in model.target_space_engine.targets) == (kind is Autoencoder)
    assert not torch.equal(model.net.weight, start)
    received = []
    model.net.register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    state = model.target_space_engine.state_dict()
    model.reference_forward(list(state["reference"]) if isinstance(state["reference"], tuple) else state["reference"])
    if expected is None:  # bags: the mean of the embeddings of each text
        expected = torch.stack([model.embedding.weight[text].mean(0).detach() for _, text in samples])
    torch.testing.assert_close(received[0].float(), expected.float())


@pytest.mark.parametrize("kind", [Views, WholeBatch, Augmented, Autoencoder])
def test_nothing_is_logged_and_no_training_step_is_counted_by_the_pass(kind):
    class Counting(kind):
        def __init__(self):
            super().__init__()
            self.counted = 0
            self.epochs = []

        def training_step(self, batch, batch_idx):
            self.counted += 1
            self.epochs.append(self.current_epoch)
            self.log("seen", float(self.counted))
            return super().training_step(batch, batch_idx)

    model = Counting()
    run = fit(model, FORMS["two views" if kind is Views else "the batch"][1])
    assert (model.counted, model.epochs) == (6, [0] * 3 + [1] * 3)
    assert float(run.callback_metrics["seen"]) == 6.0


def test_a_step_of_manual_optimisation_is_not_run_where_forward_reaches_all():
    runs = []

    class Manual(Factor):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            runs.append(self.trainer.global_step)
            self.optimizers().step()

    fit(Manual(), PAIRS, max_steps=3)
    assert runs == [0, 1, 2]


class OwnCall(LightningModule):
    """Written without the mixin, and with both methods."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def reference_batch(self):
        return {"mine": X[:5]}

    def reference_forward(self, batch):
        return self.net(batch["mine"])

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Mixed(TargetSpaceMixin, OwnCall):
    pass


@pytest.mark.parametrize("how", ["mixin before it", "converted"])
def test_a_class_without_the_mixin_brings_its_own_batch_and_call(how):
    model = Mixed() if how == "mixin before it" else convert(OwnCall())
    fit(model, PAIRS)
    assert torch.equal(model.target_space_engine.state_dict()["reference"]["mine"], X[:5])


def test_a_forward_of_none_is_no_forward():
    """As some write who only have steps; the reference batch is then run by the training step."""

    class Steps(Base):
        forward = None

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.net(batch[0]), batch[1])

    model = Steps()
    trainer(max_epochs=1).fit(model, DataLoader([*zip(X, Y, strict=True)], 8))
    assert set(model.target_space_engine.targets) == {"net"}


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout):
    """In the jagged layout they have a first dimension; without one they are refused before training."""

    class Ragged(Base):
        def forward(self, x):
            return self.net(x.to_padded_tensor(0.0).mean(1))

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self(batch[0]), batch[1])

    def collate(samples):
        return torch.nested.nested_tensor([x for x, _ in samples], layout=layout), torch.stack([y for _, y in samples])

    samples = [(x.expand(2 + n % 3, 3), y) for n, (x, y) in enumerate(zip(X, Y, strict=True))]
    if layout is torch.strided:
        with pytest.raises(TargetSpaceError, match=r"holds a nested tensor.*reference_batch\(\)"):
            fit(Ragged(), samples, collate)
        return
    model = Ragged()
    fit(model, samples, collate)
    assert len(model.target_space_engine.targets["net"]) == len(X)
