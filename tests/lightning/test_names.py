"""A module that keeps something of its own under a name that target space has is told so before it trains."""

from functools import partialmethod

import pytest
import torch
from torch import nn

from tests.support.fits import Plain, build, data, fit
from ts_lightning import TargetSpaceError, TargetSpaceMixin, convert


class Samples(Plain):
    """To draw after every epoch."""

    def __init__(self):
        super().__init__()
        self.reference_batch = torch.randn(4, 3)


class LaterSamples(Plain):
    """Known only when the data is."""

    def setup(self, stage):
        self.reference_batch = data()[0][:4]


class Computed(Plain):
    @property
    def reference_batch(self):
        return data()[0][:4]


class Unset(Plain):
    reference_forward = None


class Space(Plain):
    """A layer, which the class's own settings would hide."""

    def __init__(self):
        super().__init__()
        self.target_space = nn.Linear(2, 2)

    def forward(self, x):
        return self.target_space(super().forward(x))


class Registered(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("reference_batch", torch.randn(4, 3))


KINDS = {Samples: "Tensor", LaterSamples: "Tensor", Computed: "property", Unset: "NoneType", Space: "Linear"}


def refused(kind, found):
    has = "settings" if kind is Space else "a method"
    return pytest.raises(
        TargetSpaceError, match=rf"{kind.__name__}\.\w+: found a {found}, where target space has {has}"
    )


@pytest.mark.parametrize(("kind", "found"), KINDS.items())
def test_the_mixin(kind, found):
    model = build(type(kind.__name__, (TargetSpaceMixin, kind), {}))
    before = [parameter.clone() for parameter in model.parameters()]
    with refused(kind, found):
        fit(model)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(("kind", "found"), [*KINDS.items(), (Registered, "Tensor")])
def test_a_converted_module(kind, found):
    model = build(kind)
    with refused(kind, found):
        fit(convert(model))
    if kind is not LaterSamples:
        assert type(model) is kind


@pytest.mark.parametrize("kind", [*KINDS, Registered])
def test_in_weight_space_they_are_the_users(kind):
    model = convert(build(kind), None)
    fit(model)
    if kind is Space:
        return
    model = build(type(kind.__name__, (TargetSpaceMixin, kind), {"target_space": None}) if kind in KINDS else kind)
    fit(model)


METHODS = {
    "static": staticmethod(lambda: data()[0][:20]),
    "of the class": classmethod(lambda cls: data()[0][:20]),
    "of the object": lambda self: data()[0][:20],
    "in part": partialmethod(lambda self, size: data()[0][:size], 20),
}


@pytest.mark.parametrize("way", METHODS)
def test_methods_of_every_kind_give_the_batch(way):
    class Given(Plain):
        reference_batch = METHODS[way]

        def forward(self, batch):
            return super().forward(batch[0] if isinstance(batch, list) else batch)

        def loss(self, batch):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def reference_forward(self, batch):
            return self(batch)

    for model in (build(type("Given", (TargetSpaceMixin, Given), {})), convert(build(Given))):
        fit(model)
        assert model.target_space_engine.targets["net.0"].shape == (20, 8)


REGISTERED = {
    "buffer": lambda module, name: module.register_buffer(name, torch.zeros(2)),
    "parameter": lambda module, name: module.register_parameter(name, nn.Parameter(torch.zeros(2))),
    "set parameter": lambda module, name: setattr(module, name, nn.Parameter(torch.zeros(2))),
    "module": lambda module, name: module.add_module(name, nn.Linear(2, 2)),
    "registered module": lambda module, name: module.register_module(name, nn.Linear(2, 2)),
}


@pytest.mark.parametrize("way", REGISTERED)
@pytest.mark.parametrize("name", ["reference_batch", "target_space", "target_space_engine"])
def test_what_is_registered_under_such_a_name_is_refused_there(way, name):
    """PyTorch says that the attribute exists already, and not by whom."""

    class Own(TargetSpaceMixin, Plain):
        def __init__(self):
            super().__init__()
            REGISTERED[way](self, name)

    with pytest.raises(TargetSpaceError, match=rf"Own\.{name}: found a \w+, where target space has"):
        build(Own)
