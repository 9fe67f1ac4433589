"""A reference batch, or a call with it, that cannot be used is told in few words, with what to override."""

import pytest
import torch
from torch.nn import functional

from tests.support.points import PAIRS, Base, X, Y, fit
from ts_lightning import TargetSpaceError


def test_a_call_that_fails_is_told_with_what_to_override():
    class Failing(Base):
        def forward(self, x):
            return self.net(x["image"])

        def training_step(self, batch, batch_idx):
            return self.net(batch["image"]).mean()

    model = Failing()
    with pytest.raises(TargetSpaceError, match=r"While calling forward on the reference batch, a list of .*Override"):
        fit(model, PAIRS)


def test_a_step_of_manual_optimisation_that_cannot_be_run_is_named():
    class Manual(Base):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def forward(self, x, alpha):
            return self.net(x * alpha)

        def training_step(self, batch, batch_idx):
            raise AssertionError("no gradients")

    message = r"forward\(\) needs \(x, alpha\).*Nor can training_step\(\).*AssertionError: no gradients.*Override"
    with pytest.raises(TargetSpaceError, match=message):
        fit(Manual(), PAIRS)

    class Told(Manual):
        def reference_forward(self, batch):
            return self(batch[0], 0.5)

        def training_step(self, batch, batch_idx):
            self.optimizers().step()

    model = Told()
    fit(model, PAIRS)
    assert list(model.target_space_engine.targets) == ["net"]


@pytest.mark.parametrize("kind", [torch.Tensor.tolist, torch.Tensor.numpy], ids=["lists", "arrays"])
def test_a_reference_batch_of_numbers_is_refused_in_few_words(kind):
    class Given(Base):
        def reference_batch(self):
            return [kind(X)] if self.alone else [kind(X), kind(Y)]

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self(batch[0]), batch[1])

    model = Given()
    for model.alone, said in ((False, "holds no tensor, but "), (True, r"The reference batch is a list of \(")):
        with pytest.raises(TargetSpaceError, match=said) as error:
            fit(model, PAIRS)
        assert len(str(error.value)) < 500
