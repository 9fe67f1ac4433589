"""LightningModules with manual optimisation: one optimizer, or two that take turns."""

import torch

from tests.support.fits import Lit


class Manual(Lit):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.losses.append(float(loss.detach()))


def first(layers):
    return layers[0].parameters()


def others(layers):
    return [*layers[2].parameters(), *layers[4].parameters()]


class Two(Manual):
    """Two optimizers take turns on the same loss; the gradients that each left are recorded."""

    toggled = False
    rate = 0.1

    def configure_optimizers(self):
        return tuple(torch.optim.SGD(part(self.net), lr=self.rate) for part in (first, others))

    def training_step(self, batch, batch_idx):
        self.arrived = []
        for optimizer in self.optimizers():
            if self.toggled:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            self.arrived.append([p.grad is not None for p in self.net.parameters()])
            optimizer.step()
            if self.toggled:
                self.untoggle_optimizer(optimizer)
        self.losses.append(float(loss.detach()))
