"""Layers that the forward ceases to call in mid-fit, as an auxiliary head behind a warm-up."""

import re
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from tests.support.fits import CONFIG, Plain, build, fit, loader, trainer
from tests.support.processes import run
from tests.support.same_spaces import CONFIG as JUDGE
from tests.support.same_spaces import Habit, assert_same_in_both_spaces
from tests.support.same_spaces import trained as weights_of
from ts_lightning import TargetSpaceError, TargetSpaceMixin, convert


class Staged(TargetSpaceMixin, Plain):
    """``called`` says whether the second layer is called now."""

    target_space = CONFIG
    until = 1  # epochs

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.net = None
        self.epochs = []

    def called(self):
        return self.current_epoch < self.until

    def training_step(self, batch, batch_idx):
        self.losses.append(self.loss(batch))
        return self.losses[-1]

    def on_train_epoch_end(self):
        self.epochs.append([parameter.detach().clone() for parameter in self.part().parameters()])

    def part(self):
        return self.second


class Skipped(Staged):
    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(self.use_second(h) if self.called() else h)

    def use_second(self, h):
        return torch.tanh(self.second(h))


class AuxiliaryHead(Staged):
    """Called by ``training_step`` itself."""

    def __init__(self, **options):
        super().__init__(**options)
        self.second = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))

    def loss(self, batch):
        h = torch.tanh(self.first(batch[0]))
        loss = cross_entropy(self.head(h), batch[1])
        return loss + cross_entropy(self.second(h), batch[1]) if self.called() else loss


class Recurrent(Skipped):
    def __init__(self, **options):
        super().__init__(**options)
        self.second = nn.LSTM(8, 8, batch_first=True)

    def use_second(self, h):
        return self.second(h[:, None])[0][:, 0]


class Applied(Skipped):
    """A function applies the weight of the second layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.second = nn.ParameterDict({"w": nn.Parameter(self.second.weight.detach())})

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.apply_second(h)) if self.called() else self.later(h))

    def apply_second(self, h):
        return linear(h, self.second["w"])

    def later(self, h):
        return h


class AppliedInParts(Applied):
    def apply_second(self, h):
        one, other = self.second["w"].chunk(2)
        return torch.cat([linear(h, one), linear(torch.sin(h), other)], 1)


class AppliedOtherwise(Applied):
    def later(self, h):
        return h @ self.second["w"]


class Scaling(Applied):
    def later(self, h):
        return h * self.second["w"].square().sum()


class CalledOtherwise(Skipped):
    """Its weight trains on, in a way that is not solved."""

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(self.second(h) if self.called() else h @ self.second.weight)


def trained(cls, space="target", **options):
    """The module behind three epochs, and what was said of layers."""
    model = build(cls)
    model.target_space = None if space == "weight" else options.pop("config", CONFIG)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, loader(), max_epochs=3, **options)
    return model, [str(one.message) for one in said if "layer" in str(one.message) or "reference" in str(one.message)]


@pytest.mark.parametrize("cls", [Skipped, AuxiliaryHead, Recurrent, Applied, AppliedInParts])
def test_training_goes_on_without_it(cls):
    model, said = trained(cls)
    (text,) = said
    assert re.match(r"The forward does not call second\S*(, second\S*)? any more on", text)
    assert len(model.losses) == 12
    assert all(bool(loss.isfinite()) for loss in model.losses)
    assert float(model.losses[-1]) < float(model.losses[4])
    first, second, third = model.epochs
    assert all(map(torch.equal, second, third))  # what is not called does not change, as in weight space
    assert all(map(torch.equal, first, second))


@pytest.mark.filterwarnings("ignore:The forward does not call second")
def test_a_weight_that_is_used_otherwise_from_then_on_is_refused():
    """Its gradient would count for no target."""
    model = build(CalledOtherwise)
    with pytest.raises(TargetSpaceError, match="did not reach second"):
        fit(model, loader(), max_epochs=3)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:The reference forward did not reach second")
@pytest.mark.parametrize("cls", [AppliedOtherwise, Scaling])
def test_a_weight_that_functions_use_otherwise_is_refused_at_once(cls):
    model = build(cls)
    with pytest.raises(TargetSpaceError, match="did not reach second"):
        fit(model, loader(), max_epochs=3)
    assert len(model.losses) == 8  # to the end of the epoch


class InPart(AppliedInParts):
    """One of two parts of a parameter is applied no more behind the first epoch."""

    def later(self, h):
        return linear(torch.sin(h), self.second["w"].chunk(2)[1]).repeat(1, 2)


def test_parts_of_a_parameter_that_are_still_applied_train_on():
    model, said = trained(InPart)
    assert [text[:46] for text in said] == ["The forward does not call second.w.0 any more "]
    (first,), (second,), (third,) = model.epochs
    for before, behind in ((first, second), (second, third)):
        assert torch.equal(before[:4], behind[:4])
        assert float((before[4:] - behind[4:]).norm()) > 1e-3


class Branching(Habit):
    """One of two layers, and a scale behind it, in some steps or epochs alone."""

    def forward(self, x):
        rest = self.b(x) + self.shift
        return rest + torch.tanh(self.a(x)) * self.scale if self.called() else rest

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)


class InEverySecondStep(Branching):
    def called(self):
        return self.global_step % 2 == 0


class NotInTheSecondEpoch(Branching):
    def called(self):
        return self.current_epoch != 1


class AppliedInEverySecondStep(InEverySecondStep):
    """The layer's weight, by a function."""

    def __init__(self):
        super().__init__()
        self.a = nn.ParameterDict({"w": nn.Parameter(self.a.weight.detach())})

    def forward(self, x):
        rest = self.b(x) + self.shift
        return rest + torch.tanh(linear(x, self.a["w"])) * self.scale if self.called() else rest


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.05}], ids=str)
@pytest.mark.parametrize("cls", [InEverySecondStep, NotInTheSecondEpoch, AppliedInEverySecondStep])
def test_what_is_called_again_trains_as_in_weight_space(cls, options):
    with pytest.warns(UserWarning, match=r"does not call a\S* any more"):
        assert_same_in_both_spaces(cls, max_epochs=3, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"config": replace(CONFIG, untangle="auto")},
        {"config": replace(CONFIG, cascade_gradient=False)},
        {"config": replace(CONFIG, cascade_gradient=False, untangle="auto")},
        {"config": replace(CONFIG, method="ocu")},
    ],
    ids=str,
)
def test_whatever_the_settings(options):
    model, said = trained(Skipped, **options)
    assert [text[:44] for text in said] == ["The forward does not call second any more on"]
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_the_step_that_finds_out_is_not_lost():
    class Single(Skipped):
        until = 0

        def called(self):
            return self.global_step < 1  # in the first step, and not in the solve behind it

    model = build(Single)
    before = model.head.weight.detach().clone()
    fit(model, loader(), max_steps=1)
    assert not torch.equal(model.head.weight, before)
    targets = model.target_space_engine.targets
    assert {name: bool(target.isfinite().all()) for name, target in targets.items()} == dict.fromkeys(targets, True)


def ranks():
    torch.set_num_threads(1)
    model = build(Skipped)
    fit(model, loader(8), max_epochs=3, strategy="ddp_find_unused_parameters_true", devices=2)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_in_several_processes():
    one, other = run(ranks, ranks=2)
    assert torch.equal(one, other)
    assert bool(one.isfinite().all())


@pytest.mark.parametrize(
    ("cls", "epoch"), [(Skipped, 0), (Applied, 0), (Applied, 1), (AppliedInParts, 0), (AppliedInParts, 1)]
)
def test_a_fit_resumes(cls, epoch, tmp_path):
    """From a checkpoint of the last epoch in which it was called, and of the first in which a function did not."""
    path = tmp_path / "kept.ckpt"

    class Saving(cls):
        def on_train_epoch_end(self):
            if self.current_epoch == epoch:
                self.trainer.save_checkpoint(path)

    trained(Saving)
    resumed, said = trained(cls, ckpt_path=path)
    (text,) = said
    assert "did not reach second" in text
    assert "starts from the weights" in text
    assert all(bool(parameter.isfinite().all()) for parameter in resumed.parameters())


def test_a_fit_resumes_where_it_is_called_again(tmp_path):
    path = tmp_path / "kept.ckpt"

    class Saving(NotInTheSecondEpoch):
        def on_train_epoch_end(self):
            if self.current_epoch == 1:
                self.trainer.save_checkpoint(path)

    with pytest.warns(UserWarning, match="does not call a any more"):
        _, whole = weights_of(Saving, "target", max_epochs=3)
    torch.manual_seed(1)
    resumed = convert(NotInTheSecondEpoch(), JUDGE)
    trainer(max_epochs=3).fit(resumed, loader(dtype=torch.float64), ckpt_path=path)
    torch.testing.assert_close(list(resumed.parameters()), whole)
