"""Attached optimizers of several processes, whose gradients the backward pass averages."""

import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_

from tests.support.fits import loader
from tests.support.processes import run
from tests.support.same_spaces import CONFIG, Habit
from ts_lightning import TargetSpace


def cleared(optimizer, backward, *batch):
    """A closure's work."""
    optimizer.zero_grad()
    backward(*batch)


def looped(space, case):
    """The last parameters of a loop, and what was said, of one process."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    module, target = Habit(), space == "target"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        engine = TargetSpace(module, torch.eye(3, dtype=torch.float64), CONFIG, group=dist.group.WORLD)
        if not target:
            engine.release()
            engine = None
        parallel = DistributedDataParallel(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3, momentum=0.5)
        if target:
            engine.attach(optimizer)
        trained = list((engine or module).parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled="scale" in case)

        def backward(x, y, factor):
            loss = torch.nn.functional.cross_entropy(parallel(x[rank::2]), y[rank::2])
            scaler.scale(loss * factor).backward()

        for n, (x, y) in enumerate(loader(dtype=torch.float64)):
            batch = x, y, torch.inf if "inf" in case and n == 1 else 1.0
            if "accumulated" in case:
                with parallel.no_sync():
                    backward(*batch)
            if "closure" in case:
                optimizer.step(partial(cleared, optimizer, backward, *batch))
                continue
            backward(*batch)
            if "read by one" in case and rank:
                [parameter.grad for parameter in trained]
            if "unscaled" in case:
                scaler.unscale_(optimizer)
            if "clipped" in case:
                clip_grad_norm_(module.parameters(), 0.1)
            if "targets" in case:
                if target:
                    engine.pullback()
                norm = engine.gradient_norm() if target else clip_grad_norm_(trained, 1e9)
                clip_grads_with_norm_(trained, 0.1, norm)
            if "each" in case:
                clip_grad_norm_(trained, 0.1)
            scaler.step(optimizer)
            scaler.update()
            if "cleared" in case:
                torch.optim.Optimizer.zero_grad(optimizer)
            else:
                module.zero_grad()
    return [p.detach() for p in module.parameters()], [str(one.message) for one in found]


def both(case):
    return looped("weight", case)[0], *looped("target", case)


CASES = [
    "usual",
    "clipped",
    "targets",
    "accumulated, clipped",
    "closure",
    "cleared",
    "cleared, accumulated",
    "scaled",
    "scaled, unscaled, clipped",
    "scaled, unscaled, inf",
    "scaled, unscaled, targets",
]


@pytest.mark.parametrize("case", CASES)
def test_is_as_in_weight_space_in_all_processes(case):
    for weight, target, said in run(both, case, ranks=2):
        torch.testing.assert_close(target, weight)
        assert not said


@pytest.mark.parametrize("case", ["each", "read by one"])
def test_a_process_that_reads_a_gradient_too_early_says_so(case):
    """It cannot have it pulled back alone; clipping of targets found none."""
    for n, (_, said) in enumerate(run(looped, "target", case, ranks=2)):
        found = [one for one in said if one.startswith("Gradients of targets were read ahead of space.pullback()")]
        assert len(found) == (case == "each" or n == 1)
