"""A network of three dense layers and a norm, and its weights by dense solves."""

import torch
from torch import nn
from torch.nn import functional

from ts_lightning import ReferenceConfig, TargetSpaceConfig

RIDGE = 0.3
LAYERS = ("0", "3", "5")
CONFIG = TargetSpaceConfig(
    ridge=RIDGE, ridge_scale="absolute", step_scale=1.0, init_std=0.3, reference=ReferenceConfig(rows="all")
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)
    ).double()


def matrix(module):
    return torch.cat([module.weight, module.bias.unsqueeze(1)], 1).mT


def solution(targets, reference, norm, kept, anchors):
    """W of every layer by a dense solve, differentiable in the targets and the norm's parameters.

    ``kept`` has the weights of layers that are held, ``anchors`` those that a layer is solved around.
    """
    a, found = reference, {}
    for name in LAYERS:
        inputs = torch.cat([a, torch.ones_like(a[:, :1])], 1)
        if name in kept:
            w = kept[name]
        else:
            w0 = anchors.get(name, torch.zeros(inputs.shape[1], targets[name].shape[1], dtype=a.dtype))
            ridge = RIDGE * torch.eye(inputs.shape[1], dtype=a.dtype)
            w = w0 + torch.linalg.solve(inputs.mT @ inputs + ridge, inputs.mT @ (targets[name] - inputs @ w0))
        found[name] = w
        z = inputs @ w
        a = torch.tanh(functional.layer_norm(z, (5,), norm.weight, norm.bias, norm.eps) if name == "0" else z)
    return found
