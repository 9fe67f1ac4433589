"""The contenders in target space: at the defaults, tuned, and with parts taken away."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.starts import start
from benchmarks.peers.workload import Data, Workload
from ts_lightning import TargetAdam, TargetSpace, TargetSpaceConfig
from ts_lightning.lightning.reference_data import reference_size

_LR = 0.002  # that docs/defaults.md tells users to take, for Adam and TargetAdam
SGD = 100.0  # times Adam's learning rate is SGD's
_NEVER = 10**9  # solves, more than any budget has
_AROUND = 10.0  # the ridge around given weights
_RATES = (0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)


def target_space(model: nn.Module, data: Data, config: TargetSpaceConfig) -> TargetSpace:
    """The target space of a model, on the first training samples, as in Lightning."""
    return TargetSpace(model, data.train.x[: reference_size(model, config.reference.size)], config)


def make(model: nn.Module, workload: Workload, data: Data, setting: Setting, **config: Any) -> Learner:
    """TargetAdam, Adam or SGD on the targets, and on what is not solved.

    Args:
        model: is converted.
        workload: what is trained.
        data: its first training samples are the reference batch, as in Lightning.
        setting: ``lr``; ``optimizer``, "TargetAdam", "Adam", or "SGD", without momentum and at a hundred times this
            rate; ``start``, "own" or "weights", which are those that weight space has scaled by data, and are then
            solved around; and settings of the target space.
        config: further settings of the target space.
    """
    config = {**config, **{k: v for k, v in setting.items() if k not in ("lr", "optimizer", "start")}}
    if setting.get("start") == "weights":
        start(model, "data", workload.activation, data.train.x)
        config["init"] = "weights"
        if config.get("ridge", "auto") == "auto":
            config["ridge"] = _AROUND
    space = target_space(model, data, TargetSpaceConfig(**config))
    optimizer: torch.optim.Optimizer
    parameters, lr = space.parameters(), setting["lr"]
    if setting.get("optimizer") == "SGD":
        optimizer = torch.optim.SGD(parameters, lr=SGD * lr)
    elif setting.get("optimizer") == "TargetAdam":
        optimizer = TargetAdam(parameters, lr=lr)
    else:
        optimizer = torch.optim.Adam(parameters, lr=lr)
    return Learner([optimizer], workload.steps, space.pullback, space.solve)


_RIDGES = ("auto", 0.3, 3.0)

_UNTANGLE = TargetSpaceConfig().untangle  # in the setting, so that runs of another default are not taken for its runs


def _untuned(name: str, label: str, lr: float = _LR, **setting: Any) -> Contender:
    """A contender whose one setting is the same in all workloads."""
    return Contender(name, label, make, (lr,), lr, {option: (value,) for option, value in setting.items()})


#: what docs/choosing.md tells users to take in dense networks
DEFAULTS = _untuned("target-default", "target space, TargetAdam 0.002", optimizer="TargetAdam", untangle=_UNTANGLE)
#: the same but for the period of untangling, as long as it is not the default
PERIODIC = _untuned("target-auto", 'target space, TargetAdam, untangle="auto"', optimizer="TargetAdam", untangle="auto")
#: what a step costs least with; the rate, one for all, was found on these workloads
FAST = _untuned(
    "target-fast",
    "target space, fast",
    0.004,
    optimizer="TargetAdam",
    cascade_gradient=False,
    untangle="auto",
)
ADAM = _untuned("target", "target space, Adam 0.002", untangle=_UNTANGLE)
#: SGD, whose rate was found on these workloads and is one for all
DESCENT = _untuned("target-sgd", "target space, SGD 0.2", optimizer="SGD", untangle=_UNTANGLE)
TUNED = Contender(
    "target-tuned",
    "target space, tuned",
    make,
    _RATES,
    _LR,
    {
        "ridge": ("auto", 0.3, 30.0),
        "cascade_gradient": (True, False),
        "optimizer": ("TargetAdam", "Adam", "SGD"),
        "start": ("own", "weights"),
        "untangle": tuple(dict.fromkeys((_UNTANGLE, 1, "auto"))),
    },
)
ABLATIONS = (
    Contender(
        "no-cascade",
        "own gradients, untangling",
        partial(make, cascade_gradient=False),
        _RATES,
        _LR,
        {"ridge": _RIDGES},
    ),
    Contender(
        "kept-map",
        "never untangled",
        partial(make, cascade_gradient=False, untangle=_NEVER),
        _RATES,
        _LR,
        {"ridge": _RIDGES},
    ),
)
