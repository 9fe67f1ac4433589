"""The clock of steps: its median without the first ones, and its total over an interruption."""

from types import SimpleNamespace

import pytest
import torch

from ts_lightning import TargetSpaceConfig
from ts_lightning.cli.clock import StepClock


def test_a_step_is_timed_without_the_first_ones():
    clock = StepClock()
    assert clock.median is None
    clock.seconds = [9.0] * 10 + [1.0, 2.0, 3.0] * 4
    assert clock.median == 2.0
    clock.seconds = [9.0, 1.0]
    assert clock.median == 1.0


@pytest.mark.parametrize("version", ["present", "0.1"])
def test_the_total_goes_on_from_a_checkpoint(version):
    clock, later = StepClock(), StepClock()
    clock.seconds = [1.0, 2.0]
    held = {}
    if version == "present":
        clock.on_save_checkpoint(None, None, held)
        later.on_load_checkpoint(None, None, held)
    else:
        later.on_load_checkpoint(None, None, held)
        later.load_state_dict({"seconds": 3.0})
    later.seconds = [4.0]
    assert later.total == 7.0


def test_a_program_of_ones_own_is_not_asked_for_it():
    """Lightning asks for every callback whose state a checkpoint holds."""
    assert not StepClock().state_dict()


def test_steps_in_target_space_and_behind_its_end_are_timed_apart():
    """One median of both was that of neither."""
    clock, trainer = StepClock(), SimpleNamespace(global_step=0)
    module = SimpleNamespace(device=torch.device("cpu"), target_space=TargetSpaceConfig(until=3))
    for trainer.global_step in range(7):
        clock.on_train_batch_start(trainer, module, None, 0)
        clock.on_train_batch_end(trainer, module, None, None, 0)
    assert (clock.ended, len(clock.seconds)) == (3, 7)
    clock.seconds = [0.4, 0.2, 0.2, 0.3, 0.1, 0.1, 0.1]
    assert (clock.median, clock.median_behind) == (0.2, 0.1)
    assert StepClock().median_behind is None
