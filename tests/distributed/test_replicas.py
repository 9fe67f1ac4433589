"""Loops of several processes: one model and one reference batch, and what is not solved stays the same in all."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_

from tests.support.fits import loader
from tests.support.processes import run
from tests.support.same_spaces import CONFIG, Habit, trained
from ts_lightning import TargetSpace


def looped(space, case):
    """The last parameters of a loop, and what was said, of one process."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank if case in ("seeds", "batches") else 0)
    module, batch = Habit(), torch.eye(3, dtype=torch.float64)
    if case == "batches":
        batch = batch * (1 + 3 * rank)
    target = space == "target"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        engine = TargetSpace(module, batch, CONFIG, group=dist.group.WORLD) if target else None
        start = [parameter.detach().clone() for parameter in module.parameters()]
        parallel = DistributedDataParallel(module)
        parameters = list((engine or module).parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        for x, y in loader(dtype=torch.float64):
            optimizer.zero_grad()
            forward = module if case == "not averaged" else parallel
            torch.nn.functional.cross_entropy(forward(x[rank::2]), y[rank::2]).backward()
            if target:
                engine.pullback()
            if case == "clipped":
                norm = engine.gradient_norm() if target else clip_grad_norm_(parameters, 1e9)
                clip_grads_with_norm_(parameters, 0.1, norm)
            if case == "clipped by each":
                clip_grad_norm_(parameters, 0.1)
            optimizer.step()
            if target:
                engine.solve()
    return [p.detach() for p in module.parameters()], [str(one.message) for one in found], start


def both(case):
    return looped("weight", case)[0], *looped("target", case)


@pytest.mark.parametrize("case", ["seeds", "batches", "clipped"])
def test_is_as_in_weight_space_in_all_processes(case):
    """Of models and reference batches that differ those of the first count; such loops hung, or mixed them."""
    for weight, target, said, start in run(both, case, ranks=2):
        torch.testing.assert_close(target, weight)
        assert not said
        torch.manual_seed(0)
        torch.testing.assert_close(start, [p.detach() for p in Habit().parameters()])


@pytest.mark.parametrize("case", ["clipped by each", "not averaged"])
def test_what_is_not_the_same_in_all_processes_any_more_is_said_once(case):
    found = run(looped, "target", case, ranks=2)
    for _, said, _ in found:
        (message,) = said
        assert message.startswith("The processes no longer have the same parameters beside the solved ones")
    assert not torch.equal(found[0][0][0], found[1][0][0])


class Clipped(Habit):
    def configure_gradient_clipping(self, optimizer, *args, **options):
        clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)


def fitted():
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trained(Clipped, "target", strategy="ddp", devices=2)
    return sum("no longer have the same parameters" in str(one.message) for one in found)


def test_in_a_fit_it_is_said_once_as_well():
    assert run(fitted, ranks=2) == [1, 1]
