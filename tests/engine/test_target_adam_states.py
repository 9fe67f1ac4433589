"""States and pickles of TargetAdam from before it had an option, or of another optimizer."""

import io
import pickle

import numpy as np
import torch
from torch import nn

from ts_lightning import TargetAdam
from ts_lightning.engine.targets.target import Target


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


def test_options_of_any_library_are_kept_as_numbers_that_files_without_pickles_hold():
    numbers = {"betas": np.array([0.8, 0.9]), "eps": np.float32(1e-6), "momentum": np.float64(0.25)}
    group = {"params": [Target(torch.zeros(2))], "lr": np.float32(0.5), "rest_lr_mult": np.int64(3)}
    optimizer = TargetAdam([group], **numbers, weight_decay=torch.tensor(0.5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (kept,) = torch.load(file, weights_only=True)["param_groups"]
    assert (kept["betas"], kept["momentum"], kept["lr"], kept["rest_lr_mult"]) == ((0.8, 0.9), 0.25, 0.5, 3)
    assert type(kept["weight_decay"]) is float
    rate = torch.tensor(0.5)  # which a schedule, or a compiled step, writes to
    assert TargetAdam([Target(torch.zeros(2))], lr=rate).param_groups[0]["lr"] is rate
