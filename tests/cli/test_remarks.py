"""What ``compare`` says of settings that count in one space alone."""

import pytest

import ts_lightning.cli.compare as module

TARGET_ADAM = "ts_lightning.TargetAdam"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": {"class_path": TARGET_ADAM, "init_args": {"lr": 0.01, "rest_lr_mult": 7.5}}}, True),
        ({"optimizer": {"class_path": TARGET_ADAM, "init_args": {"lr": 0.01, "rest_lr_mult": 1.0}}}, False),
        ({"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}}, False),
        ({"optimizer": {"class_path": TARGET_ADAM}}, False),
        ({"optimizer": None}, False),
        ({}, False),
    ],
)
def test_a_multiple_of_the_rate_that_weight_space_does_not_have_is_named(settings, said):
    """Both spaces' rates were said to be tuned alike."""
    found = module._remarks(settings)
    assert [remark.startswith("rest_lr_mult=7.5 counts in target space alone") for remark in found] == [True] * said
