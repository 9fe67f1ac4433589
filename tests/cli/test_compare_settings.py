"""What ``compare`` reads in the settings: the option of the rate, and what counts in one space alone."""

import pytest

import ts_lightning.cli.compare as module

TARGET_ADAM = "ts_lightning.TargetAdam"


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"model": {"class_path": "x", "init_args": {"lr": 0.1}}}, "model.lr"),
        ({"model": {"learning_rate": 0.1}}, "model.learning_rate"),
        ({"model": {"lr": 0.1}, "optimizer": {"class_path": "torch.optim.SGD"}}, "optimizer.lr"),
    ],
)
def test_the_option_of_the_learning_rate_is_found(settings, option):
    assert module._rate_option(settings) == option


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


def test_a_rate_that_weight_space_does_not_let_grow_is_named():
    optimizer = {"class_path": TARGET_ADAM, "init_args": {"adaptive_lr": True}}
    (remark,) = module._remarks({"optimizer": optimizer})
    assert remark.startswith("adaptive_lr counts in target space alone")
