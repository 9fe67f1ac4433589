"""A reference batch that is taken anew every few epochs, and settings that change between two fits."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.support.fits import CONFIG, Lit, Plain, assert_solved, build, data, fit
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

REFRESHED = replace(CONFIG, reference=ReferenceConfig(size=32, selection="random", refresh=2))


class Refreshed(Lit):
    target_space = REFRESHED

    def __init__(self, **options):
        super().__init__(**options)
        self.references = []

    def on_train_batch_start(self, batch, batch_idx):  # without super(), as is usual
        self.before = self(data()[0]).detach()

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.look()
        return super().training_step(batch, batch_idx)

    def look(self):
        torch.testing.assert_close(self(data()[0]).detach(), self.before, rtol=1e-3, atol=1e-4)
        optimizer = self.trainer.optimizers[0]
        fresh = not any(target in optimizer.state for target in self.target_space_engine.targets.values())
        self.references.append((self.target_space_engine.state_dict()["reference"][0], fresh))


def test_every_second_epoch():
    model = build(Refreshed)
    fit(model, max_epochs=6)
    batches, fresh = zip(*model.references, strict=True)
    changed = [not torch.equal(one, next_) for one, next_ in pairwise(batches)]
    assert changed == [False, True, False, True, False]
    # moments of targets on other samples are of no use
    assert fresh == (True, False, True, False, True, False)
    assert model.losses[-1] < 0.7 * model.losses[0]
    assert_solved(model)


def test_the_change_is_returned_where_the_rows_do_not_span_the_inputs():
    x, _ = data()
    model = build(Plain)
    space = TargetSpace(model, x[:40], CONFIG)
    assert space.refresh(x[24:]) < 1e-4
    targets = dict(space.targets)
    with pytest.warns(UserWarning, match=r"do not span the inputs"):
        assert space.refresh(x[:3]) < 1e-3  # on these three; elsewhere more
    assert all(space.targets[name] is target for name, target in targets.items())
    assert space.targets["net.0"].shape == (3, 8)


def test_new_samples_need_a_choice():
    with pytest.raises(ValueError, match=r"selection='first' always takes the same"):
        ReferenceConfig(refresh=1)


@pytest.mark.parametrize(
    "settings", [replace(CONFIG, reference=ReferenceConfig(size=48)), replace(CONFIG, ridge=0.02), TargetSpaceConfig()]
)
def test_a_second_fit_with_other_settings_starts_from_the_weights(settings):
    model = build()
    fit(model, max_epochs=2)
    before = model(data()[0]).detach()
    model.target_space = settings
    model.on_train_epoch_start = lambda: torch.testing.assert_close(
        model(data()[0]).detach(), before, rtol=1e-2, atol=1e-3
    )
    fit(model, max_epochs=1)
    size = settings.reference.size
    assert len(model.target_space_engine.targets["net.0"]) == (64 if size == "auto" else size)
