"""Gradients of what stays in weight space, that users mask, clip and look at: a pull-back adds to them before."""

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import CONFIG, Lit, assert_equal, build, fit

SGD = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}


def words():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(20, (128, 6), generator=generator)
    return DataLoader(TensorDataset(x, (x.amin(1) < 2).long()), 32)


class Embedded(Lit):
    """Embeddings and a norm before two dense layers; ``mask`` changes their gradients in ``hook``."""

    hook, mask = "", staticmethod(lambda model: None)
    target_space = CONFIG

    def __init__(self, **options):
        super().__init__(**options)
        self.table, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.net(self.norm(self.table(x).mean(1)))

    def loss(self, batch):
        return functional.cross_entropy(self(batch[0]), batch[1])


def masked(hook, mask):
    """A class whose ``hook`` masks gradients; "callback" is one of a callback."""

    def call(self, *args, **kwargs):
        result = args[3]() if hook == "optimizer_step" else None
        mask(self)
        if hook == "optimizer_step":
            args[2].step()
        return result

    return type("Masked", (Embedded,), {hook: call})


def rows(model):
    model.table.weight.grad[:10] = 0


def none(model):
    model.table.weight.grad = None


def clip(model):
    nn.utils.clip_grad_norm_(model.table.parameters(), 1e-6)


def of_norm(model):
    model.norm.weight.grad.zero_()


MASKS = {"rows": rows, "none": none, "clip": clip, "norm": of_norm}
HOOKS = ["on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping", "optimizer_step"]


def moves(model, run):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run()
    return {name: (p.detach() - before[name]).abs() for name, p in model.named_parameters()}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_gradients_in_weight_space_hold(mask, hook):
    model = build(masked(hook, MASKS[mask]), **SGD)
    moved = moves(model, lambda: fit(model, words(), max_epochs=1))
    if mask == "rows":
        assert moved["table.weight"][:10].max() == 0 < moved["table.weight"][10:].max()
    elif mask == "norm":
        assert moved["norm.weight"].max() == 0 < moved["table.weight"].max()
    else:
        assert moved["table.weight"].max() <= (0 if mask == "none" else 1e-6)
    assert moved["net.0.weight"].max() > 0


def test_masks_of_a_callback_hold():
    class Masking(Callback):
        def on_after_backward(self, trainer, module):
            rows(module)

    model = build(Embedded, **SGD)
    moved = moves(model, lambda: fit(model, words(), max_epochs=1, callbacks=[Masking()]))
    assert moved["table.weight"][:10].max() == 0 < moved["table.weight"][10:].max()


def test_masks_in_manual_optimisation_hold():
    class Masking(Embedded):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            rows(self)
            optimizer.step()

    model = build(Masking, **SGD)
    moved = moves(model, lambda: fit(model, words(), max_epochs=1))
    assert moved["table.weight"][:10].max() == 0 < moved["table.weight"][10:].max()


@pytest.mark.parametrize("batches", [1, 2])
def test_the_gradient_that_is_seen_is_the_one_that_is_stepped(batches):
    seen, stepped = [], []

    class Seeing(Embedded):
        def on_before_optimizer_step(self, optimizer):
            seen.append(self.table.weight.grad.clone())

        def on_before_zero_grad(self, optimizer):
            if self.table.weight.grad is not None:
                stepped.append(self.table.weight.grad.clone())

    fit(build(Seeing, **SGD), words(), max_epochs=1, accumulate_grad_batches=batches)
    assert seen
    assert all(torch.equal(*pair) for pair in zip(seen, stepped, strict=False))


@pytest.mark.parametrize("manual", [False, True])
def test_gradients_clipped_by_value_ahead_of_another_backward_pass_are_named(manual):
    """The second pass replaced them without a word; a factor counts."""

    def clip(self):
        for parameter in self.optimizers().param_groups[0]["params"]:
            parameter.grad.clamp_(-1e-3, 1e-3)

    def twice(self, batch, batch_idx):
        self.manual_backward(self.loss(batch))
        clip(self)
        self.manual_backward(self.loss(batch))
        self.optimizers().step()

    model = build(Lit, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    model.automatic_optimization = not manual
    model.__class__ = type("Clipped", (Lit,), {"training_step": twice} if manual else {"on_after_backward": clip})
    with pytest.warns(UserWarning, match="changed, other than by a factor, ahead of another backward pass"):
        fit(model, max_epochs=1, **({} if manual else {"accumulate_grad_batches": 2}))


def _clip_targets(optimizer):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad.clamp_(-1e-3, 1e-3)


@pytest.mark.filterwarnings("error:.*ahead of another backward pass")
@pytest.mark.parametrize("manual", [False, True])
def test_clipping_by_value_is_the_same_whoever_clears_the_gradients(manual):
    """The model's own zero_grad leaves those of targets: what was clipped came back two steps later."""
    models = []
    for owner in ("the optimizer", "the model"):

        class Clipped(Lit):
            automatic_optimization = not manual
            by_model = owner == "the model"

            def clear(self, optimizer):
                (self if self.by_model else optimizer).zero_grad()

            def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
                self.clear(optimizer)

            def on_before_optimizer_step(self, optimizer):
                if self.automatic_optimization:
                    _clip_targets(optimizer)

            def training_step(self, batch, batch_idx):
                loss = self.loss(batch)
                if self.automatic_optimization:
                    return loss
                optimizer = self.optimizers()
                self.clear(optimizer)
                self.manual_backward(loss)
                _clip_targets(optimizer)
                return optimizer.step()

        models.append(build(Clipped, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)))
        fit(models[-1])
    assert_equal(*models)


@pytest.mark.filterwarnings("error:.*ahead of another backward pass")
def test_gradients_that_were_clipped_and_stepped_with_are_not_named():
    """Both optimizers clear at the start, and each steps behind a backward pass of its own."""

    class Both(Lit):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[:2], self.net[2:])]

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            for optimizer in self.optimizers():
                self.manual_backward(self.loss(batch))
                _clip_targets(optimizer)
                optimizer.step()

    fit(build(Both))
