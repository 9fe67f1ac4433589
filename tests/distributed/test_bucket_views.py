"""Gradients that are views of DistributedDataParallel's buckets: a write to one moves the version of all."""

import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.support.fits import Lit, build, fit, loader
from tests.support.processes import run


class Changing(Lit):
    """``change`` says what a hook does to the gradient of a norm, which is not solved."""

    change = None

    def on_before_optimizer_step(self, optimizer):
        gradient = self.net[1].weight.grad
        if self.change == "noise":
            gradient.add_(0.1)
        elif self.change == "mask":
            gradient[0] = 0


CASES = {
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "clipping by norm": {"gradient_clip_val": 0.05},
    "accumulation": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
    "noise": {},
    "mask": {},
}


def trained(view, case):
    torch.set_num_threads(1)
    model = build(Changing, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), dtype=torch.float64, norm=True)
    model.change = case
    strategy = DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=view)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, loader(8, dtype=torch.float64), strategy=strategy, devices=2, **CASES[case])
    times = model.target_space_engine.cascade.pulled.times
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return weights, times, [str(one.message) for one in said if "radients" in str(one.message)]


@pytest.mark.parametrize("case", CASES)
def test_views_are_as_good(case):
    (weights, times, _), *_ = run(trained, False, case, ranks=2)
    for found in run(trained, True, case, ranks=2):
        assert torch.equal(found[0], weights)
        assert found[1:] == (times, [])  # weights' gradients, which nobody wrote to, are pulled back once
