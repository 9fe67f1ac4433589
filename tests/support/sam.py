"""Sharpness-aware minimisation, whose two steps are called by hand or by a closure."""

import torch

from tests.support.manual import Manual


class SAM(torch.optim.Optimizer):
    """Reads gradients between the steps, and moves parameters there and back."""

    def __init__(self, parameters, **options):
        super().__init__(parameters, options)
        self.base = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def trained(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self.trained()]).norm()
        for parameter in self.trained():
            self.state[parameter]["old"] = parameter.detach().clone()
            parameter.add_(parameter.grad * 0.05 / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for parameter in self.trained():
            parameter.data = self.state[parameter]["old"]
        self.base.step()

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()
        return loss


class ByHand(Manual):
    """Calls the two steps itself."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.first_step()
        self.manual_backward(self.loss(batch))
        optimizer.second_step()
