"""Manual optimisation: one optimizer or two, toggled or not, and gradients that are cleared without a step."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.fits import CONFIG, Lit, Plain, assert_equal, assert_solved, build, data, fit, loader
from tests.support.manual import Manual, Two, first, others
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.Adam(p, lr=0.02)])
def test_equals_automatic_optimisation_bit_for_bit(make):
    models = [build(cls, optimizer=make, norm=True) for cls in (Lit, Manual)]
    for model in models:
        fit(model, max_epochs=3)
    assert_equal(models[1], models[0])


def test_a_closure():
    class Closure(Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                loss = self.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.losses.append(float(loss.detach()))
                return loss

            optimizer.step(closure)

    models = [build(cls, optimizer=lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3)) for cls in (Lit, Closure)]
    for model in models:
        fit(model, max_epochs=2)
    assert_equal(models[1], models[0])


def test_two_optimizers_equal_the_plain_loop():
    model = build(Two)
    fit(model, max_epochs=2)
    plain = build(Plain)
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    optimizers = [torch.optim.SGD(part(plain.net), lr=0.1) for part in (first, others)]
    for optimizer in optimizers:
        space.substitute(optimizer)
    for batch in [*loader(), *loader()]:
        for optimizer in optimizers:
            optimizer.zero_grad()
            plain.loss(batch).backward()
            space.pullback()
            optimizer.step()
            space.solve()
    assert_equal(model, plain)


def test_toggling_freezes_the_weights_with_their_targets():
    class Toggled(Two):
        toggled = True
        rate = 0.02  # at 0.1 rounding decides where 30 epochs end

    model = build(Toggled)
    fit(model, max_epochs=30)
    assert model.arrived == [[True] * 2 + [False] * 4, [False] * 2 + [True] * 4]
    assert all(p.requires_grad for p in [*model.parameters(), *model.target_space_engine.targets.values()])
    assert model.losses[-1] < 0.7 * model.losses[0]
    assert_solved(model)


class Frozen(Two):
    """The second optimizer's first layer is frozen by the user from the third step on."""

    toggled = True

    def training_step(self, batch, batch_idx):
        self.net[2].requires_grad_(self.trainer.global_step < 6)
        super().training_step(batch, batch_idx)
        self.kept = [*getattr(self, "kept", []), self.net[2].weight.detach().clone()]


@pytest.mark.parametrize("untangle", [1, 3])
def test_a_layer_that_is_frozen_stays_whichever_optimizer_is_toggled(untangle):
    model = build(Frozen)
    model.target_space = replace(CONFIG, untangle=untangle)
    fit(model)
    assert len(model.kept) == 8
    assert all(torch.equal(weight, model.kept[2]) for weight in model.kept[3:])
    assert not torch.equal(model.kept[1], model.kept[2])


def test_targets_frozen_during_a_solve_learn_afterwards():
    """The first optimizer's step solves while the second's targets are frozen."""

    class Toggled(Two):
        toggled = True

        def training_step(self, batch, batch_idx):
            before = {name: t.detach().clone() for name, t in self.target_space_engine.targets.items()}
            super().training_step(batch, batch_idx)
            self.moved = [n for n, t in self.target_space_engine.targets.items() if not torch.equal(t, before[n])]

    model = build(Toggled)
    fit(model, max_epochs=1)
    assert model.moved == ["net.0", "net.2", "net.4"]


def test_one_backward_for_two_steps():
    class Joint(Two):
        def training_step(self, batch, batch_idx):
            one, two = self.optimizers()
            one.zero_grad()
            two.zero_grad()
            self.manual_backward(self.loss(batch))
            one.step()
            two.step()

    model, single = build(Joint), build(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    fit(model, max_epochs=3)
    fit(single, max_epochs=3)
    for value, expected in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(value, expected)


class Adversaries(Plain):
    """A generator, cleared behind its step, and a critic, cleared before its backward pass: its gradients stand."""

    clears = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def reference_forward(self, batch):
        return self.critic(self(batch[0]))

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers()
        self.toggle_optimizer(one)
        self.manual_backward(functional.softplus(-self.critic(self(batch[0]))).mean())
        one.step()
        one.zero_grad()
        self.untoggle_optimizer(one)
        self.toggle_optimizer(two)
        two.zero_grad()
        self.manual_backward(functional.softplus(self.critic(self(batch[0]).detach())).mean())
        two.step()
        if self.clears:
            two.zero_grad()
        self.untoggle_optimizer(two)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.critic)]


@pytest.mark.parametrize("settings", [{}, {"untangle": 3}, {"cascade_gradient": False}])
def test_gradients_that_an_optimizer_has_used_count_for_no_other(settings):
    ends = []
    for clears in (False, True):

        class Target(TargetSpaceMixin, Adversaries):
            target_space = TargetSpaceConfig(**settings)

        Target.clears = clears
        model = build(Target)
        fit(model)
        assert len(model.target_space_engine.targets) == 5
        ends.append(model)
    assert_equal(ends[1], ends[0])


@pytest.mark.parametrize("factor", [1.0, 1e-9])
@pytest.mark.parametrize("past", [False, True])
def test_gradients_changed_between_the_steps_of_one_backward_pass_count_once(factor, past):
    """The late layers' step comes first, and has used gradients that belong to the early ones' targets, too."""

    class Joint(Two):
        rate = 1e-5  # a step moves the weights, through which is pulled back again, by next to nothing

        def training_step(self, batch, batch_idx):
            early, late = self.optimizers()
            early.zero_grad()
            late.zero_grad()
            self.manual_backward(self.loss(batch))
            late.step()
            if self.touched:
                for parameter in self.parameters():
                    (parameter.grad.data if past else parameter.grad).mul_(factor)
            early.step()
            self.aim = self.target_space_engine.targets["net.0"].grad.clone()

    ends = []
    for touched in (False, True):
        model = build(Joint)
        model.touched = touched
        fit(model, max_steps=2, max_epochs=-1, limit_train_batches=1)
        ends.append(model.aim)
    torch.testing.assert_close(ends[1], factor * ends[0], rtol=1e-2, atol=1e-3 * factor * float(ends[0].abs().max()))


def test_gradients_cleared_without_a_step_are_gone():
    """A first backward pass on another batch, thrown away by ``zero_grad``, leaves no trace."""

    class Twice(Manual):
        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss((batch[0].flip(0) * 5, batch[1])))
            super().training_step(batch, batch_idx)

    models = [build(cls, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)) for cls in (Manual, Twice)]
    for model in models:
        fit(model)
    assert_equal(models[1], models[0])


def test_in_a_plain_loop_zero_grad_clears_the_solved_weights():
    plain = build(Plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    space.substitute(optimizer)
    plain.loss(data()).backward()
    assert all(p.grad is not None for p in plain.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in plain.parameters())


def test_a_loss_from_before_another_optimizers_step_is_refused_by_name():
    """In weight space its graph needs no weight that the first step moved; here the step solved those behind, too."""

    class Late(Two):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                optimizer.step()

    with pytest.raises(TargetSpaceError, match=r"loss is of weights from before a step.*Compute the loss anew"):
        fit(build(Late))


def test_a_forward_that_writes_to_what_its_gradient_needs_is_not_taken_for_that():
    """PyTorch's own error stands, which weight space has, too."""

    class InPlace(Two):
        def training_step(self, batch, batch_idx):
            first, _ = self.optimizers()
            first.zero_grad()
            self.manual_backward(torch.tanh(self(batch[0])).mul_(2).sum())

    for space in (CONFIG, None):
        model = build(InPlace)
        model.target_space = space
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as found:
            fit(model)
        assert not isinstance(found.value, TargetSpaceError)
