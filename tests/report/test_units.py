"""Numbers as a reader wants them."""

import pytest

from ts_lightning.report.summary import spaces
from ts_lightning.report.units import amount


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 steps"), (0.7, "1 step"), (1, "1 step"), (1.2, "1 step"), (1200, "1,200 steps")]
)
def test_one_of_a_thing_is_not_said_in_the_plural(count, text):
    assert amount(count, "step") == text


@pytest.mark.parametrize(("count", "text"), [(1, "1 batch"), (2, "2 batches")])
def test_a_plural_may_be_given(count, text):
    assert amount(count, "batch", "batches") == text


def test_target_space_that_ended_after_one_step_says_so():
    assert spaces("target", 1, 4) == "target space for 1 step, then weight space"
