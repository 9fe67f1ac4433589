"""A frozen network that a fit replaces by a copy of the one that is trained, as a teacher behind every epoch."""

import copy
import warnings

import pytest
import torch

from tests.support.fits import CONFIG, Plain, build, fit, loader
from ts_lightning import TargetSpaceMixin

pytestmark = pytest.mark.filterwarnings(
    "ignore:Left out of target space because they are frozen", "ignore:Copies of weights that targets"
)


class Taught(TargetSpaceMixin, Plain):
    """Its teacher is written to; ``path`` is where it leaves a checkpoint behind its second epoch."""

    target_space = CONFIG
    path = None

    def __init__(self, **options):
        super().__init__(**options)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            taught = self.teacher(batch[0])
        return self.loss(batch) + 0.1 * (self(batch[0]) - taught).square().mean()

    def renew(self):
        self.teacher.load_state_dict(self.net.state_dict())

    def on_train_epoch_end(self):
        self.renew()
        if self.path is not None and self.current_epoch == 1:
            self.trainer.save_checkpoint(self.path)


class Replaced(Taught):
    def renew(self):
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)


def trained(cls, path=None, **options):
    model = build(cls, optimizer=lambda p: torch.optim.Adam([x for x in p if x.requires_grad], lr=0.01))
    model.path = path
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The model was changed")
        fit(model, loader(), max_epochs=4, **options)
    return list(model.parameters())


def test_it_trains_as_one_whose_teacher_is_written_to():
    """Target space was made anew behind each epoch, with fresh moments."""
    torch.testing.assert_close(trained(Replaced), trained(Taught), rtol=0, atol=0)


def test_a_fit_resumes(tmp_path):
    """The checkpoint did not know the new teacher as frozen."""
    path = tmp_path / "kept.ckpt"
    whole = trained(Replaced, path)
    torch.testing.assert_close(trained(Replaced, ckpt_path=path), whole, rtol=0, atol=0)
