"""The clock of steps: its median without the first ones, and its total over an interruption."""

from ts_lightning.cli.clock import StepClock


def test_a_step_is_timed_without_the_first_ones():
    clock = StepClock()
    assert clock.median is None
    clock.seconds = [9.0] * 10 + [1.0, 2.0, 3.0] * 4
    assert clock.median == 2.0
    clock.seconds = [9.0, 1.0]
    assert clock.median == 1.0


def test_the_total_goes_on_from_a_checkpoint():
    clock, later = StepClock(), StepClock()
    clock.seconds = [1.0, 2.0]
    later.load_state_dict(clock.state_dict())
    later.seconds = [4.0]
    assert later.state_dict() == {"seconds": 7.0}
