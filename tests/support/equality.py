"""Fits that one process and several make on the same global batches, and what they left."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.support.fits import trainer
from tests.support.nets import Attending
from tests.support.parts import Parts
from ts_lightning import ReferenceConfig, TargetAdam, TargetSpaceConfig, TargetSpaceMixin

BATCH = 8


class InterleavedNorm(nn.BatchNorm2d):
    """Batch norm in one process as ``parts`` processes have it, whose samples interleave."""

    parts = 1

    def forward(self, x):
        if not self.track_running_stats or self.parts == 1:  # the former in the reference pass
            return super().forward(x)
        out = torch.empty_like(x)
        for part in range(self.parts):
            out[part :: self.parts] = super().forward(x[part :: self.parts])
        return out


class MLP(nn.Module):
    shape, size = (12,), 11

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))

    def forward(self, x):
        return self.net(x)


class Wide(MLP):
    """A dual solve: fewer reference rows than inputs."""

    size = 7


class Siamese(MLP):
    """One layer for both halves, solved at its first use."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5))
        self.readout = nn.Linear(5, 3)

    def forward(self, x):
        return self.readout(torch.tanh(self.net(x[:, :6]) * self.net(x[:, 6:])))


class CNN(nn.Module):
    shape, size = (2, 7, 7), 9

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 4, 3, padding=1), InterleavedNorm(4), nn.Conv2d(4, 5, 3)
        self.readout = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        return self.readout(torch.tanh(self.second(x)).mean((2, 3)))


class LSTM(nn.Module):
    """Behind a projection that is trained as usual, reached through the reference pass as well."""

    shape, size = (6, 4), 21

    def __init__(self):
        super().__init__()
        self.projection = nn.Parameter(torch.randn(4, 4))
        self.recurrent, self.readout = nn.LSTM(4, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x):
        return self.readout(self.recurrent(x @ self.projection)[0][:, -1])


class Steps(LSTM):
    """A dense layer at every step."""

    def forward(self, x):
        return self.readout(self.recurrent(x @ self.projection)[0]).mean(1)


class Contracted(nn.Module):
    """Weights of einsum, for heads in a batch and scaled, whose samples are behind the steps."""

    shape, size = (6, 4), 11

    def __init__(self):
        super().__init__()
        self.first, self.heads = nn.Parameter(torch.randn(4, 2, 3)), nn.Parameter(torch.randn(2, 3, 2))
        self.last = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        h = torch.tanh(torch.einsum("tbd,dhk->tbhk", x.transpose(0, 1), self.first))
        h = torch.tanh(torch.einsum("tbhk,hkm->tbhm", h, self.heads)).flatten(2)
        return functional.linear(h.mean(0), self.last / 2)


class Attention(Attending):
    """Two kinds of attention."""

    shape, size = (6, 4), 11

    def __init__(self):
        super().__init__(outputs=3)


class WideAttention(Attention):
    """Of keys with a width of their own."""

    def __init__(self):
        super().__init__()
        self.to_queries = nn.MultiheadAttention(4, 2, kdim=8, vdim=4, batch_first=True)

    def forward(self, x):
        x = self.to_itself(x, x, x)[0]
        keys = torch.cat([x, x.square()], -1)
        return self.readout(self.to_queries(self.queries.expand(len(x), -1, -1), keys, x)[0].flatten(1))


class Projected(LSTM):
    """With states that are projected."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.readout = nn.LSTM(4, 5, batch_first=True, bidirectional=True, proj_size=3), nn.Linear(6, 3)


class Loop(LSTM):
    """A cell of two layers, one that is called step by step, and a readout at every step."""

    def __init__(self):
        super().__init__()
        self.inputs, self.states, self.above = nn.Linear(4, 5), nn.Linear(5, 5), nn.LSTMCell(5, 4)
        self.recurrent, self.readout = nn.Identity(), nn.Linear(4, 3)

    def forward(self, x):
        h, above, found = x.new_zeros(len(x), 5), None, 0
        for step in (x @ self.projection).unbind(1):
            h = torch.tanh(self.inputs(step) + self.states(h))
            above = self.above(h, above)
            found = found + self.readout(above[0])
        return found


class Words(MLP):
    """Behind a table with sparse gradients, of which each process looks up other rows."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 12, sparse=True)

    def forward(self, x):
        return self.net(self.table((4 * x[:, :3]).long().clamp(-4, 4) + 4).mean(1))


class Empty(LSTM):
    """A reference batch of fewer samples than processes."""

    size = 1


class EmptySteps(Steps):
    """The same, of sequences."""

    size = 1


class EmptyAttention(Attention):
    """The same, of attention."""

    size = 1


EVERY = (
    MLP,
    Wide,
    Siamese,
    CNN,
    LSTM,
    Steps,
    Loop,
    Projected,
    Contracted,
    Parts,
    Attention,
    WideAttention,
    Words,
    Empty,
    EmptySteps,
    EmptyAttention,
)
NETWORKS = {cls.__name__: cls for cls in EVERY}

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "TargetAdam": lambda parameters: TargetAdam(parameters, lr=0.01),
    "adaptive": lambda parameters: TargetAdam(parameters, lr=0.001, adaptive_lr=True),
}


class Lit(TargetSpaceMixin, LightningModule):
    def __init__(self, network, config, optimizer):
        super().__init__()
        self.network = network
        self.target_space = config
        self.make = OPTIMIZERS[optimizer]

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make(self.parameters())


class SameEverywhere(Callback):
    """Compares the weights of all processes after every step, bit for bit."""

    def __init__(self):
        self.same = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if dist.is_initialized():
            mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
            all_ = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(all_, mine)
            self.same &= all(torch.equal(mine, other) for other in all_)


def run(
    name,
    processes,
    *,
    optimizer="SGD",
    dtype="float64",
    shard=True,
    rows="auto",
    accumulate=1,
    untangle=1,
    cascade_gradient=True,
    steps=12,
    **clipping,
):
    """Fit with batches of BATCH in all processes together; returns final weights, targets, and whether all agreed."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    cls, dtype = NETWORKS[name], getattr(torch, dtype)
    torch.manual_seed(0)
    network = cls().to(dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, *cls.shape, generator=generator, dtype=dtype)
    y = torch.randint(3, (32,), generator=generator)
    for layer in network.modules():
        if isinstance(layer, InterleavedNorm):
            layer.parts = processes // world
    reference = ReferenceConfig(size=cls.size, shard=shard, rows=rows)
    how = {"untangle": untangle, "cascade_gradient": cascade_gradient}
    config = TargetSpaceConfig(step_scale=5.0, reference=reference, **how)
    model = Lit(network, config, optimizer)
    same = SameEverywhere()
    strategy = {"strategy": "target_space_ddp", "devices": world} if world > 1 else {}
    fit = trainer(
        max_epochs=-1,
        max_steps=steps,
        use_distributed_sampler=False,
        callbacks=[same],
        accumulate_grad_batches=accumulate,
        **clipping,
        **strategy,
    )
    samples = TensorDataset(x, y)
    sampler = DistributedSampler(samples, world, int(os.environ.get("RANK", 0)), shuffle=False)
    fit.fit(model, DataLoader(samples, BATCH // world // accumulate, sampler=sampler))
    state = model.target_space_engine.state_dict()
    return {
        "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
        "targets": state["targets"],
        "same": same.same,
        "held": sum(target.numel() for target in model.target_space_engine.targets.values()),
        "steps": fit.global_step,
    }
