"""What optimizers train of a module: none of it, biases alone, all but biases; one optimizer over two fits."""

import copy
import io
import pickle
import warnings
from collections import Counter
from functools import partial

import pytest
import torch

from tests.support.fits import Lit, Plain, assert_equal, assert_solved, build, fit
from tests.support.manual import Manual
from ts_lightning import TargetAdam


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.002)


def test_an_optimizer_of_biases_alone_trains_them_in_weight_space():
    """BitFit: no layer is solved, and nothing is refused."""
    found = []
    for kind in (Lit, Plain):
        model = build(kind)
        model.make = lambda parameters: torch.optim.Adam([p for p in parameters if p.dim() == 1], lr=0.01)
        if kind is Lit:
            with pytest.warns(UserWarning, match=r"No layer to solve in Lit.*it trains in weight space"):
                fit(model)
        else:
            fit(model)
        found.append(model)
    assert_equal(*found)


@pytest.mark.parametrize("own", [False, True])
def test_no_optimizer_at_all_is_weight_space_and_said(own):
    """``configure_optimizers`` gives None, and the module may train by an optimizer of its own."""

    class Without(Manual if own else Lit):
        def configure_optimizers(self):
            self.kept = [adam(self.parameters())]

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if own:
                self.kept[0].zero_grad()
                loss.backward()
                self.kept[0].step()
            return loss

    model = build(Without)
    with pytest.warns(UserWarning, match=r"no optimizer of configure_optimizers\(\) trains a parameter"):
        fit(model)
    expected = build(Plain, optimizer=adam)
    if own:
        fit(expected)
    assert_equal(model, expected)


@pytest.mark.parametrize("made", ["in the first fit", "with the module"])
def test_an_optimizer_in_two_fits_goes_on_with_its_moments(made):
    class Same(Lit):
        def configure_optimizers(self):
            self.kept = getattr(self, "kept", None) or [adam(self.parameters())]
            return self.kept[0]

    model = build(Same)
    if made == "with the module":
        model.kept = [adam(model.parameters())]
    once = build(optimizer=adam)
    fit(model, max_epochs=2)
    fit(model, max_epochs=2)
    fit(once, max_epochs=4)
    assert_equal(model, once)


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved])
@pytest.mark.parametrize("within", [False, True])
def test_a_copy_of_a_fitted_module_trains_by_the_copy_of_its_optimizer(copied, within):
    """That held copies of targets, so that nothing was trained."""
    model = build(Holding)
    if within:
        model.on_train_epoch_end = partial(_keep, model, copied)
    fit(model)
    twin = model.__dict__.pop("twin") if within else copied(model)
    other, (optimizer,) = build(), twin.kept
    other.load_state_dict(twin.state_dict())
    other.configure_optimizers = lambda: adam(other.parameters())
    assert twin.schedule.optimizer is optimizer
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(twin.parameters())
    assert not optimizer.state
    for module in (twin, other):
        torch.manual_seed(1)
        fit(module)
    assert_equal(twin, other)
    assert model.target_space_engine.targets["net.0"] in model.kept[0].state  # the original goes on as it was


class Holding(Lit):
    """Holds its optimizer, and a schedule of it."""

    def __init__(self):
        super().__init__()
        self.make = None  # which no pickle takes
        self.kept = [adam(self.parameters())]
        self.schedule = torch.optim.lr_scheduler.StepLR(self.kept[0], 100)

    def configure_optimizers(self):
        return self.kept[0]


def _keep(model, copied):
    hook = model.__dict__.pop("on_train_epoch_end")
    if model.current_epoch == 0:
        model.__dict__["twin"] = copied(model)
    model.__dict__["on_train_epoch_end"] = hook


def test_hooks_and_steps_that_are_set_on_the_instance_are_called():
    counts = []
    for kind in (Lit, Plain):
        seen, model = Counter(), build(kind, optimizer=adam)
        forward, step = model.forward, model.training_step

        def doubled(x, forward=forward, seen=seen, kind=kind):
            seen["forward"] += len(x) == 16
            return 2 * forward(x)

        def counted(batch, batch_idx, step=step, seen=seen):
            seen["step"] += 1
            return step(batch, batch_idx)

        model.forward, model.training_step = doubled, counted
        model.on_before_optimizer_step = lambda optimizer, seen=seen: seen.update(["before"])
        model.on_after_backward = lambda seen=seen: seen.update(["after"])
        fit(model)
        counts.append(seen)
        if kind is Lit:
            assert_solved(model)
    assert counts[0] == counts[1] == {"forward": 8, "step": 8, "before": 8, "after": 8}


def test_biases_that_no_optimizer_has_are_said_to_be_solved():
    model = build(optimizer=lambda p: adam(q for q in p if q.dim() == 2))
    with pytest.warns(UserWarning, match=r"Trained by no optimizer.*: net\.0\.bias, net\.2\.bias, net\.4\.bias\."):
        fit(model, max_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Trained by no optimizer")
        fit(build(), max_epochs=1)


@pytest.mark.parametrize(("multiple", "said"), [(10.0, True), (1.0, False)])
@pytest.mark.parametrize("alone", [True, False])
def test_a_multiple_of_the_rate_in_an_optimizer_without_targets_is_named(multiple, said, alone):
    """It was without effect, without a word."""

    class Normed(Manual):
        def configure_optimizers(self):
            norm = list(self.net[1].parameters())
            rest = [p for p in self.parameters() if all(p is not other for other in norm)]
            if not alone:
                return TargetAdam([*rest, *norm], rest_lr_mult=multiple)
            return torch.optim.SGD(rest, lr=0.01), TargetAdam(norm, rest_lr_mult=multiple)

        def training_step(self, batch, batch_idx):
            optimizers = self.optimizers() if alone else [self.optimizers()]
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            for optimizer in optimizers:
                optimizer.step()

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(build(Normed, norm=True))
    messages = [str(one.message) for one in found if "rest_lr_mult" in str(one.message)]
    expected = (
        "An optimizer has rest_lr_mult=10 and trains no targets, beside which alone it counts. Give that optimizer"
    )
    assert [message.startswith(expected) for message in messages] == [True] * (said and alone)
