"""An encoder and a head, with what makes a layer of them one that cannot be solved."""

import torch
from torch import nn

X = torch.ones(5, 3)


class Net(nn.Module):
    """An encoder and a head; the forward is ``run``."""

    def __init__(self, run=None, **layers):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run or (lambda net, x: net.head(net.encoder(x)))

    def forward(self, x):
        return self.run(self, x)


def tied(run=None):
    net = Net(run, other=nn.Linear(4, 2))
    net.other.weight = net.head.weight
    return net


def half_frozen():
    net = Net()
    net.head.bias.requires_grad_(False)
    return net


def half_frozen_recurrent():
    net = Net(rnn=nn.LSTM(3, 4))
    net.rnn.bias_hh_l0.requires_grad_(False)
    return net
