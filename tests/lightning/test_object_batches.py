"""Batches that are objects: a forward may write to them, and every pass has the reference batch as it was."""

from collections import UserDict, defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import Plain, build, data, fit
from ts_lightning import TargetSpaceMixin
from ts_lightning.engine.running.copies import fresh


@dataclass
class Record:
    """A batch as dataclasses are."""

    x: torch.Tensor
    y: torch.Tensor
    names: list[str] = field(default_factory=list)

    def to(self, *args, **kwargs):
        return self


@dataclass(frozen=True)
class Frozen:
    """One whose fields cannot be set."""

    x: torch.Tensor
    y: dict[str, object]
    names: list[str]


class Graph:
    """A batch with a store inside, and a method that copies it."""

    def __init__(self, x, y):
        self.store = {"x": x, "y": y}
        self.clones = 0

    def clone(self):
        found = Graph(self.store["x"].clone(), self.store["y"].clone())
        found.clones = self.clones + 1
        return found

    @property
    def x(self):
        return self.store["x"]

    @x.setter
    def x(self, value):
        self.store["x"] = value

    @property
    def y(self):
        return self.store["y"]


class Bag:
    """One that holds its tensors in a dictionary of an object of its own."""

    def __init__(self, x, y):
        self.held = Graph(x, y)

    @property
    def x(self):
        return self.held.x

    @x.setter
    def x(self, value):
        self.held.x = value

    @property
    def y(self):
        return self.held.y


class Wrapped(UserDict):
    """A mapping of a class of its own."""

    @property
    def x(self):
        return self["x"]

    @x.setter
    def x(self, value):
        self["x"] = value

    @property
    def y(self):
        return self["y"]


@dataclass(slots=True)
class Slots:
    """A dataclass without a dictionary of its own."""

    x: torch.Tensor
    y: torch.Tensor


class Lookup:
    """One that looks its attributes up elsewhere, whatever they are called."""

    def __init__(self, x, y):
        self.__dict__["inside"] = {"x": x, "y": y}

    def __getattr__(self, name):
        return self.inside[name]

    def __setattr__(self, name, value):
        self.inside[name] = value


class Made:
    """One with a constructor of its own, a dictionary with another, and a ``clone`` that is for something else."""

    def __new__(cls, x, y):
        return super().__new__(cls)

    def __init__(self, x, y):
        self.x, self.y, self.counts = x, y, defaultdict(list, {"a": [1]})

    def clone(self, device):
        raise AssertionError("a copy is asked for")


FORMS = {
    "slots": Slots,
    "lookup": Lookup,
    "made": Made,
    "namespace": lambda x, y: SimpleNamespace(x=x, y=y),
    "dataclass": Record,
    "graph": Graph,
    "object": Bag,
    "mapping": lambda x, y: Wrapped(x=x, y=y),
}


class Writes(Plain):
    """A forward that puts its result into the batch, as layers of graph networks do."""

    def forward(self, batch):
        batch.x = 2 * batch.x
        batch.x = torch.tanh(self.net[0](batch.x))
        return self.net[2:](batch.x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch), batch.y)


class InPlace(Writes):
    """A forward that writes to the tensors of the batch."""

    def forward(self, batch):
        with torch.no_grad():
            batch.x.mul_(2)
        return self.net(batch.x)


@pytest.mark.parametrize("module", [Writes, InPlace])
@pytest.mark.parametrize("form", FORMS)
def test_every_pass_has_the_batch_as_it_was(form, module):
    class Target(TargetSpaceMixin, module):
        pass

    def collate(samples):
        return FORMS[form](*map(torch.stack, zip(*samples, strict=True)))

    model = build(Target)
    fit(model, DataLoader(TensorDataset(*data()), 16, collate_fn=collate))
    assert len(model.target_space_engine.targets) == 3
    batch = model.target_space_engine.cascade.reference.batch.data
    assert torch.equal(batch.x, data()[0][: len(batch.x)])


def test_what_is_copied():
    x, model = torch.ones(2, 3), nn.Linear(3, 2)
    names = ["a", "b"]
    given = Frozen(x, {"inner": (x, Bag(x, x))}, names)
    found = fresh([given, names, model, "word", 3])
    assert found[0].names == names
    assert found[0].names is not names
    assert found[1] is not names
    assert found[2] is model
    for tensor in (found[0].x, found[0].y["inner"][0], found[0].y["inner"][1].x):
        assert tensor is not x
        assert torch.equal(tensor, x)
    assert type(found[0]) is Frozen
    words = UserDict(a=1)
    assert fresh(words) == words
    opaque = object()
    assert fresh(opaque) is opaque
    lists = defaultdict(list, {"a": x})
    assert type(fresh(lists)) is defaultdict
    assert fresh(lists)["a"] is not x


def test_an_object_that_holds_itself_is_copied():
    bag = Bag(torch.ones(2), torch.ones(2))
    bag.parent = bag
    found = fresh(bag)
    found.x = found.x + 1
    assert torch.equal(bag.x, torch.ones(2))
