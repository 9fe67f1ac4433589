"""States and pickles of TargetAdam from before it had an option, or of another optimizer."""

import pickle

import torch
from torch import nn

from ts_lightning import TargetAdam
from ts_lightning.engine.target import Target


def test_options_that_a_state_does_not_have_stay_each_groups_own():
    """A state of an older version, or of Adam, gave all groups the default."""
    groups = [
        {"params": [Target(torch.zeros(2))], "rest_lr_mult": 3.0},
        {"params": [Target(torch.zeros(2))], "lr": 0.5},
    ]
    optimizer = TargetAdam(groups, rest_lr_mult=7.0, momentum=0.1)
    older = optimizer.state_dict()
    for group in older["param_groups"]:
        del group["rest_lr_mult"]
    adams = torch.optim.Adam([{"params": g["params"]} for g in groups], lr=0.25).state_dict()
    for state, rates in ((older, [0.002, 0.5]), (adams, [0.25, 0.25])):
        optimizer.load_state_dict(state)
        assert [group["rest_lr_mult"] for group in optimizer.param_groups] == [3.0, 7.0]
        assert [group["momentum"] for group in optimizer.param_groups] == [0.1, 0.1]
        assert [group["lr"] for group in optimizer.param_groups] == rates


def test_a_pickle_from_before_an_option_loads():
    optimizer = TargetAdam([nn.Parameter(torch.ones(2))])
    for options in (optimizer.defaults, *optimizer.param_groups):
        del options["rest_lr_mult"]
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.param_groups[0]["rest_lr_mult"] == 1.0
