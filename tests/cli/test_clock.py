"""The clock of steps: its median without the first ones, and its total over an interruption."""

import pytest

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
