"""A fit within a hook of another one, as an inner training of a search: it ends as the same fit does by itself."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import Lit, build, data, trainer
from ts_lightning import ReferenceConfig, TargetSpaceConfig

HOOKS = ["on_train_start", "on_train_batch_start", "training_step", "on_after_backward", "on_validation_epoch_end"]


class Outer(Lit):
    """In ``hook`` the module is fitted that ``inner`` holds, once."""

    hook, inner = None, ()

    def reach(self, hook):
        if hook == self.hook and self.inner:
            fitted(self.inner.pop())

    def on_train_start(self):
        self.reach("on_train_start")

    def on_train_batch_start(self, *args):
        self.reach("on_train_batch_start")

    def training_step(self, batch, batch_idx):
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready > 1:  # behind the start's look at the step
            self.reach("training_step")
        return super().training_step(batch, batch_idx)

    def on_after_backward(self):
        self.reach("on_after_backward")

    def on_validation_epoch_end(self):
        self.reach("on_validation_epoch_end")


def fitted(model):
    """The model behind two epochs on batches whose order no seed changes."""
    loader = DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(2))
    trainer(max_epochs=2).fit(model, loader, DataLoader(TensorDataset(*data()), batch_size=8))
    return list(model.parameters())


@pytest.mark.parametrize("hook", HOOKS)
def test_it_ends_as_by_itself(hook):
    inner = build(Lit)
    other = copy.deepcopy(inner)
    torch.manual_seed(3)
    expected = fitted(other)
    torch.manual_seed(3)
    outer = build(Outer)
    outer.hook, outer.inner = hook, [inner]
    torch.manual_seed(3)
    fitted(outer)
    assert not outer.inner
    torch.testing.assert_close(list(inner.parameters()), expected, rtol=0, atol=0)


def test_a_fresh_start_follows_the_seed_alone():
    """In weight space a module that is made already follows none."""
    model = build(Lit)
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=32))
    found = []
    for seed, drawn in ((3, 0), (3, 5), (4, 0)):
        torch.manual_seed(seed)
        torch.rand(drawn)
        found.append(fitted(copy.deepcopy(model)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert not torch.equal(found[0][0], found[2][0])
