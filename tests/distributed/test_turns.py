"""Networks that are trained in turns by several processes, of which one's step leaves the other's weights alone."""

import torch

from tests.lightning.test_held_steps import Gan
from tests.support.fits import loader, trainer
from tests.support.processes import run
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMixin


class Turns(TargetSpaceMixin, Gan):
    """The critic steps ahead of the generator's backward pass, through samples that were made before that step."""


def ends():
    """The last weights of one of two processes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Turns()
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(shard=False))
    trainer(max_epochs=1, strategy="ddp_find_unused_parameters_true", devices=2).fit(model, loader())
    return [parameter.detach() for parameter in model.parameters()]


def test_a_step_of_one_leaves_the_graph_of_the_other():
    """The first process's weights were written to all, those that had not changed, too; the backward pass failed."""
    first, second = run(ends, ranks=2)
    assert all(weight.isfinite().all() for weight in first)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
