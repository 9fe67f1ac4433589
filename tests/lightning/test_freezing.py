"""Layers and norms that are frozen and thawed in mid-fit, by hand and by callbacks."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_differences, gradients
from tests.support.fits import CONFIG, Lit, Plain, build, data, fit
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceMixin

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.002)}


class Freezing(Lit):
    """Freezes a layer in epoch 1 and thaws it in epoch 3."""

    frozen = 2
    part = None

    def parameters_frozen(self):
        layer = self.net[self.frozen]
        return list(layer.parameters()) if self.part is None else [getattr(layer, self.part)]

    def on_train_epoch_start(self):
        self.begun = [p.detach().clone() for p in self.net[self.frozen].parameters()]
        if self.current_epoch in (1, 3):
            for parameter in self.parameters_frozen():
                parameter.requires_grad_(self.current_epoch == 3)

    def on_train_epoch_end(self):
        pairs = zip(self.net[self.frozen].parameters(), self.begun, strict=True)
        self.moved = [*getattr(self, "moved", []), max(float((p - q).detach().abs().max()) for p, q in pairs)]


@pytest.mark.parametrize("part", [None, "weight", "bias"])
@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_a_frozen_layer_stays_and_a_thawed_one_goes_on(frozen, part):
    model = build(Freezing, **ADAM)
    model.frozen, model.part = frozen, part
    fit(model, max_epochs=5)
    assert model.moved[1] == model.moved[2] == 0
    assert min(model.moved[0], model.moved[3], model.moved[4]) > 1e-4
    # what it was is what it goes on from
    assert model.moved[3] < 30 * model.moved[0]


def test_the_gradient_around_a_frozen_layer_is_exact():
    model = build(Plain, dtype=torch.float64)
    x, y = data(dtype=torch.float64)
    space = TargetSpace(model, x[:32], TargetSpaceConfig(step_scale=1.0, reference=ReferenceConfig(size=32)))
    for parameter in model.net[2].parameters():
        parameter.requires_grad_(False)
    space.solve()

    def loss(run):
        return functional.cross_entropy(run(x), y)

    found = {n: g for n, g in gradients(space, model, loss).items() if n != "net.2"}
    held = space.targets.pop("net.2")
    generator = torch.Generator().manual_seed(0)
    try:
        variables = {**space.targets}
        directions = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in variables.items()}
        start = {n: p.detach().clone() for n, p in variables.items()}
        space.targets["net.2"] = held
        values = {}
        for sign in (-1, 1):
            with torch.no_grad():
                for name, target in variables.items():
                    target.copy_(start[name] + sign * 1e-5 * directions[name])
            space.solve()
            values[sign] = float(loss(model).detach())
    finally:
        space.targets["net.2"] = held
    slope = (values[1] - values[-1]) / 2e-5
    assert slope == pytest.approx(sum(float((found[n] * d).sum()) for n, d in directions.items()), rel=1e-5)


def test_a_norm_that_is_thawed_later_has_its_exact_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)).double()
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    x, y = data(dtype=torch.float64)
    space = TargetSpace(model, x[:20], TargetSpaceConfig(step_scale=1.0))
    for parameter in model[1].parameters():
        parameter.requires_grad_(True)

    def loss(run):
        return functional.cross_entropy(run(x), y)

    found = gradients(space, model, loss)
    assert "1.weight" in found
    assert float(found["1.weight"].norm()) > 0
    check_differences(space, model, loss, found, torch.Generator().manual_seed(1))


class Backbone(TargetSpaceMixin, Plain):
    target_space = CONFIG

    def __init__(self, **options):
        super().__init__(**options)
        self.backbone, self.head = self.net[:4], self.net[4]

    def forward(self, x):
        return self.head(self.backbone(x))

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.002)

    def on_train_epoch_end(self):
        self.weights = [*getattr(self, "weights", []), self.net[0].weight.detach().clone()]


class TwoStages(BaseFinetuning):
    """Two layers that thaw one after the other, the second into a group of its own."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch in (1, 2):
            self.unfreeze_and_add_param_group(pl_module.net[2 if epoch == 1 else 0], optimizer)


@pytest.mark.parametrize("make", [lambda: BackboneFinetuning(2), TwoStages], ids=["backbone", "stages"])
def test_finetuning_thaws_as_in_weight_space(make, tmp_path):
    runs = []
    for space in (CONFIG, None):
        model = build(Backbone)
        model.target_space = space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = fit(model, max_epochs=4, callbacks=[make()])
        runs.append((model, run))
    for model, run in runs:
        first, second, third, last = model.weights
        assert torch.equal(first, second)
        assert not torch.equal(third, last)
        (callback,) = [c for c in run.callbacks if isinstance(c, BaseFinetuning)]
        groups = [group["params"] for group in callback._internal_optimizer_metadata[0]]
        assert groups[0] in (["net.4.weight", "net.4.bias"], ["head.weight", "head.bias"])
        assert sorted(n.split(".")[-1] for group in groups for n in group) == ["bias"] * 3 + ["weight"] * 3


def test_what_thaws_into_weight_space_is_said():
    model = build(Backbone)
    with pytest.warns(UserWarning, match=r"Trained from here on, in weight space: net\.0\.weight, net\.2\.weight\."):
        fit(model, max_epochs=3, callbacks=[BackboneFinetuning(1)])


def test_what_thaws_is_said_by_its_name_ahead_of_compiling():
    class Thawing(Lit):
        def on_train_epoch_start(self):
            self.net[2].requires_grad_(self.current_epoch == 1)

    model = build(Thawing)
    model.net[2] = torch.compile(model.net[2], backend="eager")
    model.net[2].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"Trained from here on, in weight space: net\.2\.weight\."):
        fit(model)


@pytest.mark.parametrize("names", [["net.2.bias"], ["net.2.weight"], ["net.0.bias", "net.2.bias"]])
def test_a_layer_that_is_frozen_in_part_is_held_as_a_whole_and_named(names):
    class Partly(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                for name in names:
                    self.get_parameter(name).requires_grad_(False)
                self.before = {key: p.detach().clone() for key, p in self.named_parameters()}

    model = build(Partly)
    with pytest.warns(UserWarning, match="Held as they are from here on: " + ", ".join(n[:5] for n in names)) as said:
        fit(model)
    assert len([one for one in said if "Held as they are" in str(one.message)]) == 1
    moved = {key: not torch.equal(p, model.before[key]) for key, p in model.named_parameters()}
    held = {name[:5] for name in names}
    assert all(moved[key] == (key[:5] not in held) for key in moved)


def test_a_layer_that_is_frozen_as_a_whole_is_not_named(recwarn):
    class Whole(Lit):
        def on_train_epoch_start(self):
            self.net[2].requires_grad_(self.current_epoch == 0)

    fit(build(Whole))
    assert not any("Held as they are" in str(one.message) for one in recwarn)
