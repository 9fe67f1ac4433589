"""A model that is changed in mid-fit: heads, adapters, parametrizations, pruning, ties, other optimizers."""

from dataclasses import replace
from enum import Enum

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from tests.support.fits import CONFIG, Lit, Plain, build, data, fit
from ts_lightning import TargetSpace, TargetSpaceError

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.002)}
X = data()[0]


class Scaled(nn.Module):
    def forward(self, weight):
        return 0.9 * weight


class Adapter(nn.Module):
    """A frozen layer with a branch beside it, as LoRA has it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(4, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, 4))

    def forward(self, x):
        return self.layer(x) + x @ self.down.mT @ self.up.mT


def head(model, optimizer):
    model.net[4] = nn.Linear(8, 2)
    optimizer.add_param_group({"params": list(model.net[4].parameters())})
    return list(model.net[4].parameters())


def weight(model, optimizer):
    model.net[2].weight = nn.Parameter(model.net[2].weight.detach().clone())
    optimizer.add_param_group({"params": [model.net[2].weight]})
    return [model.net[2].weight]


def adapter(model, optimizer):
    model.net[2] = Adapter(model.net[2])
    optimizer.add_param_group({"params": [model.net[2].down, model.net[2].up]})
    return [model.net[2].up]


def inserted(model, optimizer):
    layer = nn.Linear(8, 8)
    nn.init.eye_(layer.weight)
    model.net.insert(4, layer)
    optimizer.add_param_group({"params": list(layer.parameters())})
    return [layer.weight]


def removed(model, optimizer):
    del model.net[2:4]
    return list(model.net[2].parameters())


def another_optimizer(model, optimizer):
    model.net[4] = nn.Linear(8, 2)
    model.trainer.strategy.optimizers = [ADAM["optimizer"](model.parameters())]
    return list(model.parameters())


def tied(model, optimizer):
    layer = nn.Linear(8, 8)
    layer.weight = model.net[2].weight
    model.net.insert(3, layer)
    return [layer.weight]


def parametrised(model, optimizer):
    nn.utils.parametrize.register_parametrization(model.net[2], "weight", Scaled())
    return [model.net[2].parametrizations.weight.original]


def weight_normed(model, optimizer):
    parametrizations.weight_norm(model.net[2])
    return [model.net[4].weight]


def spectral(model, optimizer):
    spectral_norm(model.net[2])
    return [model.net[2].weight_orig]


def pruned(model, optimizer):
    prune.l1_unstructured(model.net[2], "weight", amount=0.5)
    return [model.net[2].weight_orig]


def pruned_whole(model, optimizer):
    """All parameters of a layer keep their order."""
    prune.l1_unstructured(model.net[2], "weight", amount=0.5)
    prune.l1_unstructured(model.net[2], "bias", amount=0.5)
    return [model.net[2].weight_orig, model.net[2].bias_orig]


CHANGES = [
    head,
    weight,
    adapter,
    inserted,
    removed,
    another_optimizer,
    tied,
    parametrised,
    weight_normed,
    spectral,
    pruned,
    pruned_whole,
]


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_training_goes_on_from_the_changed_model(change, epoch):
    """The next batch sees the model as the user left it, and all of it trains; it is said."""

    class Changed(Lit):
        trained = None

        def on_train_epoch_start(self):
            if self.current_epoch == epoch:
                self.trained = change(self, self.trainer.optimizers[0])
                self.start = [p.detach().clone() for p in self.trained]
                self.expected = self.eval()(X).detach()
                self.train()

        def training_step(self, batch, batch_idx):
            if self.trained is not None and not hasattr(self, "found"):
                self.found = self.eval()(X).detach()
                self.train()
            return super().training_step(batch, batch_idx)

    model = build(Changed, **ADAM)
    with pytest.warns(UserWarning, match=r"model was changed during the fit .*starts anew from the present weights"):
        fit(model, max_epochs=5)
    # power iterations go on in training, and so do the solves of what stands behind them
    torch.testing.assert_close(model.found, model.expected, rtol=0.1 if change is spectral else 1e-4, atol=1e-4)
    for parameter, start in zip(model.trained, model.start, strict=True):
        assert float((parameter.detach() - start).abs().max()) > 1e-4
    last = [p.detach().clone() for p in model.parameters()]
    assert sum(model.losses[-4:]) < sum(model.losses[4 * epoch : 4 * epoch + 4])
    model.target_space_engine.solve()
    for parameter, value in zip(model.parameters(), last, strict=True):
        torch.testing.assert_close(parameter, value, rtol=1e-4, atol=1e-5)


def test_other_modules_without_parameters_are_solved_for():
    """The activation before a layer is another one: the layer's weights are those that its targets give behind it."""
    seen = []

    class Swapping(Lit):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 2:
                self.net[1] = nn.ReLU()

        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                space = self.target_space_engine
                twin = build(Plain)
                twin.net[1] = nn.ReLU()
                twin.net.load_state_dict(self.net.state_dict())
                TargetSpace(twin, data()[0][:32], CONFIG, state=space.state_dict())
                seen.extend((p.detach().clone(), q) for p, q in zip(self.parameters(), twin.parameters(), strict=True))
            return super().training_step(batch, batch_idx)

    fit(build(Swapping, **ADAM), max_epochs=1)
    assert seen
    for found, expected in seen:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("when", ["in the fit", "between fits"])
def test_a_head_that_is_replaced_at_the_end_is_what_the_next_fit_starts_from(when):
    class Replaced(Lit):
        def on_train_end(self):
            if when == "in the fit" and not hasattr(self, "expected"):
                self.replace()

        def replace(self):
            self.net[4] = nn.Linear(8, 2)
            self.expected = self(X).detach()

        def on_train_start(self):
            self.found = self(X).detach()

    model = build(Replaced, **ADAM)
    fit(model)
    if when == "between fits":
        model.replace()
    with pytest.warns(UserWarning, match=r"The weights net\.4.* are not those that the targets were solved to"):
        fit(model)
    torch.testing.assert_close(model.found, model.expected, rtol=1e-4, atol=1e-4)


def test_in_a_loop_of_ones_own_it_is_refused_by_name():
    model = build(Plain)
    space = TargetSpace(model, X, CONFIG)
    model.net[4] = nn.Linear(8, 2)
    with pytest.raises(TargetSpaceError, match=r"other parameters .*new: net\.4\.weight.*init='weights'"):
        space.solve()


@pytest.mark.parametrize("change", [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), spectral_norm])
def test_parameters_of_another_name_in_the_same_order_are_noticed(change):
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False))
    space = TargetSpace(model, X, CONFIG)
    change(model[0])
    with pytest.raises(TargetSpaceError, match=r"of another name: 0\.weight \(0\.weight_orig\)"):
        space.solve()


def test_names_of_parameters_may_be_of_a_subclass_of_str():
    """Sites of a ParameterDict by an enumeration; the start failed."""

    class Site(str, Enum):
        NORTH = "north"

    model = build(**ADAM)
    model.offsets = nn.ParameterDict({Site.NORTH: nn.Parameter(torch.zeros(2))})
    model.loss = lambda batch: nn.functional.cross_entropy(model(batch[0]) + model.offsets[Site.NORTH], batch[1])
    fit(model, max_epochs=1)
    assert model.offsets[Site.NORTH].abs().min() > 0


def pruned_more(model):
    prune.l1_unstructured(model.net[2], "weight", amount=0.5)


def zeroed(model):
    model.net[2].weight_mask[:4] = 0


@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize("mask", [pruned_more, zeroed])
def test_a_mask_that_comes_to_hold_zeros_takes_its_layer_back_to_weight_space(mask, untangle):
    """Gradual pruning that begins without zeros; all weights became NaN, and so did those of the last checkpoint."""

    class Pruned(Lit):
        target_space = replace(CONFIG, untangle=untangle)

        def on_fit_start(self):
            prune.identity(self.net[2], "weight")

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                assert "net.2" in self.target_space_engine.targets
                mask(self)
            if self.current_epoch == 3:
                assert list(self.target_space_engine.targets) == ["net.0", "net.4"]
                self.start = [p.detach().clone() for p in self.parameters()]

    model = build(Pruned, **ADAM)
    with pytest.warns(UserWarning, match=r"changed during the fit \(multiplied by zeros: net\.2\)") as said:
        fit(model, max_epochs=6)
    assert sum("multiplied by zeros" in str(one.message) for one in said) == 1
    assert int((model.net[2].weight == 0).sum()) == 32
    assert all(not torch.equal(p.detach(), start) for p, start in zip(model.parameters(), model.start, strict=True))
    assert all(p.isfinite().all() for p in model.parameters())
