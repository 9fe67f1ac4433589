"""What a training step or a forward writes to parameters counts once, as in weight space, and no pass repeats it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tests.support.fits import Plain, build, data, fit, loader
from ts_lightning import TargetSpaceConfig, TargetSpaceMixin

STEPS = 8  # of a fit


class Counting(Plain):
    """A frozen parameter counts the training steps."""

    def __init__(self):
        super().__init__()
        self.count = nn.Parameter(torch.zeros(2), requires_grad=False)

    def write(self):
        with torch.no_grad():
            self.count += 1

    def training_step(self, batch, batch_idx):
        self.write()
        return super().training_step(batch, batch_idx)


class ByData(Counting):
    """Past autograd's count of writes."""

    def write(self):
        self.count.data.add_(1)


class BySetting(Counting):
    """With new memory."""

    def write(self):
        self.count.data = self.count.data + 1


class Loaded(Counting):
    """By load_state_dict."""

    def write(self):
        self.load_state_dict({**self.state_dict(), "count": self.count + 1})


class Trained(Counting):
    """One that is trained."""

    def __init__(self):
        super().__init__()
        self.count.requires_grad_(True)


class Rebound(Counting):
    """A large one, in the form of momentum contrast."""

    def __init__(self):
        super().__init__()
        self.count = nn.Parameter(torch.zeros(2**22 + 8), requires_grad=False)

    def write(self):
        self.count.data = self.count.data + 1


class OnlyStep(Counting):
    """No forward, so that training_step is the reference forward."""

    forward = None

    def loss(self, batch):
        return functional.cross_entropy(self.net(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])


class OneHead(ByData):
    """A head that training_step alone calls: forward is run first, and training_step is the reference forward."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def loss(self, batch):
        return functional.cross_entropy(self.head(self(batch[0] + 0.1 * torch.randn_like(batch[0]))), batch[1])


class InForward(Counting):
    """Written by forward, which validation does not call here."""

    def training_step(self, batch, batch_idx):
        return Plain.training_step(self, batch, batch_idx)

    def forward(self, x):
        self.write()
        return super().forward(x)


class Named(Counting):
    """Batches that are dictionaries, so that training_step is watched once."""

    def forward(self, inputs):
        return self.net(inputs)

    def loss(self, batch):
        return functional.cross_entropy(self(batch["x"]), batch["y"])

    def training_step(self, batch, batch_idx):
        self.write()
        return self.loss(batch)


@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize(
    "module", [Counting, ByData, BySetting, Loaded, Trained, Rebound, OnlyStep, OneHead, InForward, Named]
)
def test_a_step_writes_once(module, untangle):
    class Target(TargetSpaceMixin, module):
        target_space = TargetSpaceConfig(untangle=untangle)

    model = build(Target)
    x, y = data()
    batches = DataLoader([{"x": x, "y": y} for x, y in zip(x, y, strict=True)], 16) if module is Named else loader()
    fit(model, batches)
    assert model.target_space_engine is not None
    assert model.count[:2].tolist() == [STEPS, STEPS]


class Teacher(OnlyStep):
    """A moving average of the network, as self-distillation has it, whose memory may be that of the network."""

    def __init__(self, shared=False):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.shared = shared

    @torch.no_grad()
    def write(self):
        for teacher, student in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            if self.shared:
                teacher.data = student.data
            else:
                teacher.lerp_(student, 0.1)


@pytest.mark.parametrize("shared", [False, True])
def test_a_teachers_average_is_that_of_weight_space(shared):
    class Target(TargetSpaceMixin, Teacher):
        target_space = TargetSpaceConfig(init="weights")

    ends = []
    for cls in (Teacher, Target):
        model = build(cls, shared=shared)
        with torch.no_grad():
            for weight in model.teacher.parameters():
                weight.mul_(2)
        model.make = lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.0)
        fit(model)
        ends.append(torch.cat([p.flatten() for p in model.teacher.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)


class Clamped(Plain):
    """A temperature that training_step clamps, as contrastive learning does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.6))

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.scale.clamp_(0, 2.5)
        return functional.cross_entropy(self(batch[0]) * self.scale.exp(), batch[1])


class Renormed(Plain):
    """An embedding with max_norm, which its call writes to."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3, max_norm=0.5)

    def forward(self, x):
        return self.net(x + self.table((x[:, 0] > 0).long()))


class Follows(Plain):
    """A second network that takes the first one's weights over now and then, which no optimizer trains."""

    def __init__(self):
        super().__init__()
        self.second = copy.deepcopy(self.net)

    def training_step(self, batch, batch_idx):
        if batch_idx % 2 == 0:
            self.second.load_state_dict(self.net.state_dict())
        with torch.no_grad():
            aim = self.second(batch[0]).max(1).values + 1
        return (self(batch[0]).max(1).values - aim).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=0.002)


@pytest.mark.filterwarnings("ignore:Left out of target space because no optimizer trains them")
@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize("module", [Clamped, Renormed, Follows])
def test_a_training_step_may_write_to_a_parameter_before_its_backward_pass(module, untangle):
    class Target(TargetSpaceMixin, module):
        target_space = TargetSpaceConfig(untangle=untangle)

    model = build(Target)
    fit(model)
    assert model.target_space_engine is not None
    if module is Clamped:
        assert float(model.scale.detach()) < 2.55
