"""Loops as libraries write them, which know nothing of target space: optimizers of the module are attached."""

from __future__ import annotations

import warnings

import torch

from tests.support.fits import loader
from tests.support.same_spaces import CONFIG, Habit
from ts_lightning import TargetSpace


def unit():
    return torch.eye(3, dtype=torch.float64)


class Loop:
    """A module, what trains it, and the target space of one of both."""

    def __init__(self, space, make=lambda parameters: torch.optim.Adam(parameters, lr=0.02), of="model"):
        torch.manual_seed(0)
        self.module = Habit()
        self.space = TargetSpace(self.module, unit(), CONFIG) if space == "target" else None
        source = self.module if of == "model" or self.space is None else self.space
        found = make(list(source.parameters()))
        self.optimizers = list(found) if isinstance(found, tuple) else [found]
        self.optimizer = self.optimizers[0]
        self.handles = [self.space.attach(one) for one in self.optimizers] if self.space else []
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        self.model = self.module

    def trained(self):
        return list((self.space or self.module).parameters())


def usual(loop, batch):
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    loop.optimizer.step()


def closed(loop, batch):
    def closure():
        loop.optimizer.zero_grad()
        loss = loop.module.loss(batch)
        loss.backward()
        return loss

    loop.optimizer.step(closure)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.5)


def fused(parameters):
    return torch.optim.Adam(parameters, lr=0.02, fused=True)


def trained(space, step, **options):
    loop = Loop(space, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Guards may run slower", RuntimeWarning)  # the compiler's, of Python 3.13.0
        warnings.filterwarnings("ignore", "The weights of .* were changed since")
        for _ in range(2):
            for batch in loader(dtype=torch.float64):
                step(loop, batch)
    return loop.module.seen, [parameter.detach() for parameter in loop.module.parameters()]


def assert_same(step, **options):
    torch.testing.assert_close(trained("target", step, **options), trained("weight", step, **options))
