"""What several processes must agree about, the ways to start them, and what cannot be shared between them."""

import os
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.multiprocessing import ProcessExitedException

from tests.support.fits import CONFIG, Lit, build, data, fit
from tests.support.manual import Two
from tests.support.optimizer_states import Columns
from tests.support.processes import run
from tests.support.resuming import Preconditioned
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fitted(cls, **options):
    torch.set_num_threads(1)
    model = build(cls)
    fit(model, **{"strategy": "target_space_ddp", "devices": 2, "max_epochs": 4, **options})
    return model


def assert_trained(found):
    assert torch.equal(found[0], found[1])
    assert float((found[0] - weights(build())).norm()) > 0.1


def two_nodes():
    os.environ.update(LOCAL_RANK="0", GROUP_RANK=os.environ["RANK"], LOCAL_WORLD_SIZE="1")
    model = fitted(Lit, strategy="ddp", devices=1, num_nodes=2)
    assert len(model.target_space_engine.targets["net.0"]) == 16
    return weights(model)


def test_two_nodes():
    assert_trained(run(two_nodes, ranks=2))


class Toggled(Two):
    toggled = True


def toggled():
    return weights(fitted(Toggled, strategy="ddp_find_unused_parameters_true"))


def test_two_toggled_optimizers():
    assert_trained(run(toggled, ranks=2))


class Talking(Lit):
    """Leaves messages to gloo's threads when it ends."""

    def on_fit_end(self):
        for _ in range(5):
            dist.all_reduce(torch.ones(20000), async_op=True)


@pytest.fixture(scope="module")
def spawned():
    """The weights' way in a fit whose processes import everything anew, and how one of these failed at its end."""
    model = build(Talking, optimizer=partial(torch.optim.Adam, lr=0.02))
    before = weights(model)
    try:
        fit(model, strategy="ddp_spawn", devices=2)
    except ProcessExitedException as error:
        return weights(model) - before, error
    return weights(model) - before, None


def test_ddp_spawn(spawned):
    assert float(spawned[0].norm()) > 0.1


def test_the_last_messages_do_not_abort_a_process_that_ends(spawned):
    assert spawned[1] is None


class Reading(Lit):
    """A logger of gradients in one process: of targets, behind every backward pass, averaged yet or not."""

    reads = True

    def __init__(self, **options):
        super().__init__(norm=True, **options)

    def on_after_backward(self):
        if self.reads and self.trainer.global_rank == 1:
            assert all(p.grad is not None for p in self.parameters())
            self.read = [target.grad for target in self.target_space_engine.targets.values()]


def reading(reads, shard):
    Reading.reads = reads
    Reading.target_space = replace(CONFIG, reference=ReferenceConfig(size=32, shard=shard))
    return weights(fitted(Reading, strategy="ddp", accumulate_grad_batches=2))


@pytest.mark.parametrize("shard", [False, True])
def test_a_process_that_reads_gradients_changes_nothing(shard):
    found, expected = (run(reading, reads, shard, ranks=2) for reads in (True, False))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], expected[0])


class Overflowing(Lit):
    """In the second step one process alone finds an infinity, in the gradient of its own targets."""

    def on_train_batch_start(self, batch, batch_idx):
        self.before = weights(self)
        if batch_idx == 1 and self.trainer.global_rank == 1:
            target = self.target_space_engine.targets["net.2"]
            self.handle = target.register_hook(lambda gradient: gradient + torch.inf)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.moved = [*getattr(self, "moved", []), not torch.equal(weights(self), self.before)]
        if batch_idx == 1 and self.trainer.global_rank == 1:
            self.handle.remove()


def overflowing():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    model = fitted(Overflowing, plugins=[plugin], max_epochs=2)
    return model.moved, scaler.get_scale(), weights(model)


def test_all_skip_a_step_that_one_has_to_skip():
    one, two = run(overflowing, ranks=2)
    assert one[0] == two[0] == [True, False, True, False]
    assert one[1] == two[1] == 2.0
    assert torch.equal(one[2], two[2])


def synchronised(shard, synchronise):
    """The solved weights, and the gradients on the targets, of a network whose batch norm may ask other processes."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()
    if synchronise:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    x, _ = data(21, torch.float64)
    config = TargetSpaceConfig(reference=ReferenceConfig(shard=shard))
    space = TargetSpace(model, x, config, group=dist.group.WORLD if dist.is_initialized() else None)
    model.eval()(x).square().mean().backward()  # in training, a synchronised norm needs a GPU
    space.pullback()
    gradients = [space.partition.whole(name, target.grad) for name, target in space.targets.items()]
    return [*(p.detach() for p in model.parameters()), *gradients, *(p.grad for p in model[1].parameters())]


@pytest.mark.parametrize("shard", [True, False])
def test_a_synchronised_batch_norm_takes_the_whole_reference_batch(shard):
    one = synchronised(shard, synchronise=False)
    for rank in run(synchronised, shard, True, ranks=2):
        for value, expected in zip(rank, one, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


class Mixing(nn.Module):
    """Every sample sees the mean of the batch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.second(x - x.mean(0))


class Packing(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4)

    def forward(self, x, lengths):
        return self.rnn(nn.utils.rnn.pack_padded_sequence(x.transpose(0, 1), lengths))[0].data


def refusals():
    dist.init_process_group("gloo")
    model, (x, _) = build(), data()
    said = {}

    def refused(name, action):
        try:
            action()
        except TargetSpaceError as error:
            said[name] = str(error)

    group = dist.group.WORLD
    refused("function", lambda: TargetSpace(model.net, lambda: model.net(x), CONFIG, group=group))
    refused("lengths", lambda: TargetSpace(model.net, (x, x[:5]), CONFIG, group=group, forward=lambda b: model(b[0])))
    refused("mixing", lambda: TargetSpace(Mixing(), x, CONFIG, group=group))
    for name, lengths in (("packed", torch.arange(20, 0, -1)), ("packed alike", torch.full((20,), 20))):
        refused(name, lambda lengths=lengths: TargetSpace(Packing(), (torch.randn(20, 20, 3), lengths), group=group))
    space = TargetSpace(model.net, x, CONFIG, group=group)
    refused("lbfgs", lambda: space.substitute(torch.optim.LBFGS(model.parameters())))
    averager = PeriodicModelAverager(period=4)
    averaged = PostLocalSGDOptimizer(torch.optim.Adam(model.parameters()), averager)
    refused("averaged", lambda: space.substitute(averaged))

    def two_steps(own):
        for _ in range(2):
            own.zero_grad()
            model.net(x).square().mean().backward()
            space.pullback()
            own.step()
            space.solve()

    refused("preconditioned", lambda: two_steps(Preconditioned(space.parameters(), 0.01)))
    space.solve()
    refused("columns", lambda: two_steps(Columns(space.parameters())))
    space.release()
    replicated = TargetSpaceConfig(reference=ReferenceConfig(shard=False))
    space = TargetSpace(model.net, lambda: model.net(x), replicated, group=group)
    space.substitute(torch.optim.LBFGS(model.parameters()))
    return said


def test_what_cannot_be_shared_is_refused_in_all_processes():
    one, two = run(refusals, ranks=2)
    assert one == two
    assert "found a function; expected tensors whose first dimension is the samples" in one["function"]
    assert "found tensors of lengths [5, 64]" in one["lengths"]
    assert "'second' is solved differently from 2 shares" in one["mixing"]
    assert "'rnn.l0' receives a PackedSequence, whose rows go by steps" in one["packed"]
    assert one["packed alike"] == one["packed"]
    assert "LBFGS looks at all targets at once, and each of 2 processes has its own" in one["lbfgs"]
    assert "Preconditioned holds a moment (" in one["preconditioned"]
    assert "Columns holds a moment (1, 8) of targets, which is not one for each" in one["columns"]
    assert "PostLocalSGDOptimizer averages what the processes train" in one.pop("averaged")
    assert all("reference.shard=False" in sentence for sentence in one.values())
