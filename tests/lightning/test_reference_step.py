"""A training_step that is run for the reference batch: what it writes to is put back, what it draws may be left out."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from tests.support.points import PAIRS, Base, X, Y, fit
from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.lightning.reference_call import reference_call


def test_what_training_step_writes_to_beside_the_module_is_put_back():
    losses, seen, counted = [], [], 0

    class Writing(Base):
        def training_step(self, batch, batch_idx, seen=seen):
            nonlocal counted
            counted += len(batch[0])
            seen.append(batch_idx)
            losses.append(0.0)
            return self.loss(2 * batch[0] - 1, batch[1])

        def loss(self, x, y):
            losses[-1] = functional.cross_entropy(self(x), y)
            return losses[-1]

    fit(Writing(), PAIRS)
    assert len(losses) == len(seen) == 6
    assert counted == 48


class Noisy(Base):
    """Trains on inputs with noise."""

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0] + torch.randn_like(batch[0])), batch[1])


@pytest.mark.parametrize(("processes", "shard"), [(1, True), (2, True), (2, False)])
def test_noise_of_training_step_is_left_out_where_each_process_draws_its_own(processes, shard, recwarn):
    model, batch = Noisy(), (X, Y)
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(shard=shard))
    model._trainer = SimpleNamespace(world_size=processes, loggers=[])
    given = []
    model.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    call = reference_call(model, batch)
    given.clear()
    call(batch)
    apart = processes > 1 and shard
    assert torch.equal(given[0], X) == apart
    said = [str(one.message) for one in recwarn if "drawn at random" in str(one.message)]
    assert len(said) == apart
