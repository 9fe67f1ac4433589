"""Hooks and patched forwards: those that look do not see the reference pass, those that change the result run in it."""

import functools
import types

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.middles import EXACT, batch, net, noting, steps
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


class Collector:
    """A callable with a list."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, args, output):
        self.seen.append(output)

    def method(self, module, args, output):
        self.seen.append(output)


GLOBAL = []


def collect_globally(module, args, output):
    GLOBAL.append(output)


def collect_into(seen, module, args, output):
    seen.append(output)


def closure(seen):
    return lambda module, args, output: seen.append(output)


def hooks():
    mine, method, partial, cell = Collector(), Collector(), [], []
    GLOBAL.clear()
    yield mine, mine.seen
    yield method.method, method.seen
    yield functools.partial(collect_into, partial), partial
    yield closure(cell), cell
    yield collect_globally, GLOBAL


@pytest.mark.parametrize("name", ["0", "2", "2.e", "", "everywhere"])
def test_hooks_that_look_do_not_see_the_pass(name):
    model = net(lambda m, h: m.e(h), e=nn.Linear(6, 6))
    lists, handles = [], []
    for hook, seen in hooks():
        lists.append(seen)
        if name == "everywhere":
            handles.append(nn.modules.module.register_module_forward_hook(hook))
        else:
            model.get_submodule(name).register_forward_hook(hook)
    try:
        steps(model, batch())
    finally:
        for handle in handles:
            handle.remove()
    for seen in lists:
        assert seen
        assert all(len(output) == 8 for output in seen)


def test_backward_hooks_and_hooks_on_tensors_do_not_see_the_pull_back():
    seen = []

    def run(m, h):
        h.register_hook(lambda gradient: seen.append(("tensor", gradient)))
        h.retain_grad()
        return m.e(h)

    model = net(run, e=nn.Linear(6, 6))
    model[2].e.register_full_backward_hook(lambda module, gradients, outer: seen.append(("module", outer[0])))
    steps(model, batch())
    assert len(seen) == 4
    assert all(len(gradient) == 8 for _, gradient in seen)


ACTING = {
    "output": lambda m: m[2].e.register_forward_hook(lambda module, args, z: z.round(decimals=1)),
    "input": lambda m: m[2].e.register_forward_pre_hook(lambda module, args: (args[0] * 3,)),
    "keywords": lambda m: m[2].register_forward_pre_hook(lambda module, a, k: ((a[0] - 1,), k), with_kwargs=True),
    "in place": lambda m: m[2].e.register_forward_hook(twice),
    "patched": lambda m: setattr(m[2].e, "forward", types.MethodType(patched, m[2].e)),
    "patched, on the original": lambda m: setattr(m[2].e, "forward", functools.partial(around, m[2].e.forward)),
}


def twice(module, args, output):
    output.mul_(2)


def patched(module, h):
    return 3 * functional.linear(h, module.weight, module.bias)


def around(original, h):
    return original(h) + h


@pytest.mark.parametrize("case", ACTING)
def test_what_changes_the_result_runs_in_the_pass(case):
    """The input of the last layer in the pass is what the model gives on the reference batch."""
    model, seen = net(lambda m, h: m.e(h), e=nn.Linear(6, 6)), numpy.zeros((2, 20, 6))
    ACTING[case](model)
    model[4].register_forward_hook(noting(seen))
    space = TargetSpace(model, batch(), EXACT)
    space.solve()
    found = seen.copy()
    model(batch())
    numpy.testing.assert_allclose(found, seen, rtol=1e-9)
    assert len(space.targets) == 3


def test_a_patched_forward_without_the_bias_is_solved_without_it():
    model = net(lambda m, h: m.e(h), e=nn.Linear(6, 6))
    e = model[2].e
    e.forward = lambda h: functional.linear(h, e.weight)
    space = TargetSpace(model, batch())
    assert [len(layer.parameters) for layer in space.layers] == [2, 1, 2]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_patched_forward_of_another_kind_is_refused_by_name(kind):
    model = net(lambda m, h: m.e(h)[0], e=kind(6, 6))
    e, original = model[2].e, model[2].e.forward
    e.forward = lambda h: original(h)
    with pytest.raises(TargetSpaceError, match=r"layer '2\.e'.*set on the instance.*exclude"):
        TargetSpace(model, batch(), TargetSpaceConfig(layers=["*"]))


@pytest.mark.parametrize("bias", [True, False])
def test_a_patched_convolution(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.Flatten(), nn.Linear(48, 2)).double()
    conv, original = model[0], model[0].forward
    x = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    plain = TargetSpace(model, x, EXACT)
    wanted = [p.detach().clone() for p in model.parameters()]
    conv.forward = lambda x: original(x)
    plain.release()
    space = TargetSpace(model, x, EXACT, state=plain.state_dict())
    assert all(map(torch.equal, wanted, model.parameters()))
    assert list(space.targets) == ["0", "2"]
