"""A forward without gradients is what others call for predictions: training_step is the reference forward then."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.points import PAIRS, Base, fit
from ts_lightning import TargetSpaceError


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_forward_for_inference_is_not_what_trains(off):
    """The layers are reached without gradients in it: training_step is the reference forward."""

    class Inference(Base):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

        @off()
        def forward(self, x):
            return self.net(x).softmax(-1)

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.net(batch[0]), batch[1])

    class Plain(Inference):
        def forward(self, x):
            return self.net(x)

    models = []
    for kind in (Inference, Plain):
        torch.manual_seed(0)
        models.append(kind())
        fit(models[-1], PAIRS)
    for found, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_forward_that_switches_gradients_off_in_eval_mode_is_told():
    class Switched(Base):
        def forward(self, x):
            with torch.set_grad_enabled(self.training):
                return self.net(x)

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self(batch[0]), batch[1])

    with pytest.raises(TargetSpaceError, match=r"layer 'net' is called where gradients are off.*reference_forward"):
        fit(Switched(), PAIRS)
