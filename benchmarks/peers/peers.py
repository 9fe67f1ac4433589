"""The peers in weight space: AdamW, SGD with momentum, Muon, SOAP, Shampoo and FOOF, each from three starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.peers.contender import Contender, Learner, Make, Setting
from benchmarks.peers.foof import Foof
from benchmarks.peers.muon import Muon
from benchmarks.peers.starts import STARTS, start
from benchmarks.peers.workload import Data, Workload

_EVERY = 10  # steps from one preconditioner to the next
_LARGEST = 1024  # dimension with a preconditioner: of the vocabulary's 5,000 it would take most of a run


def muon(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """Muon for the weights of all layers but the last; AdamW at a tenth of its rate for all else."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.RNNBase))]
    weights = [p for layer in layers[:-1] for p in layer.parameters(recurse=False) if p.dim() > 1]
    chosen = {id(p) for p in weights}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    lr, decay = setting["lr"], setting["weight_decay"]
    others: Optimizer = torch.optim.AdamW(rest, lr=0.1 * lr, weight_decay=decay)
    return [Muon(weights, lr=lr, weight_decay=decay), others] if weights else [others]


def adamw(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """AdamW as it comes."""
    return [torch.optim.AdamW(model.parameters(), lr=setting["lr"], weight_decay=setting["weight_decay"])]


def sgd(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """SGD with Nesterov's momentum; weight decay is not decoupled."""
    settings = {"lr": setting["lr"], "weight_decay": setting["weight_decay"]}
    return [torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)]


def soap(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """SOAP of pytorch-optimizer, eigenbases every ten steps."""
    from pytorch_optimizer import SOAP

    settings = {"lr": setting["lr"], "weight_decay": setting["weight_decay"]}
    return [SOAP(model.parameters(), precondition_frequency=_EVERY, max_precondition_dim=_LARGEST, **settings)]


def shampoo(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """Blocked Shampoo of pytorch-optimizer, roots every ten steps, each layer's step as long as RMSprop's."""
    from pytorch_optimizer import ScalableShampoo

    return [
        ScalableShampoo(
            model.parameters(),
            lr=setting["lr"],
            weight_decay=setting["weight_decay"],
            decoupled_weight_decay=True,
            moving_average_for_momentum=True,
            start_preconditioning_step=_EVERY,
            preconditioning_compute_steps=_EVERY,
            graft_type=3,  # RMSprop
        )
    ]


def foof(model: nn.Module, setting: Setting) -> list[Optimizer]:
    """FOOF, Gram matrices every ten steps."""
    return [Foof(model, setting["lr"], setting["damping"], every=_EVERY)]


def _weight_space(optimizers: Callable[[nn.Module, Setting], list[Optimizer]]) -> Make:
    def make(model: nn.Module, workload: Workload, data: Data, setting: Setting) -> Learner:
        start(model, setting["start"], workload.activation, data.train.x)
        return Learner(optimizers(model, setting), workload.steps)

    return make


_DECAYS = {"weight_decay": (0.01, 0.3)}
_RATES = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def _peer(name: str, label: str, optimizers: Any, rate: float, options: dict[str, tuple[Any, ...]]) -> Contender:
    return Contender(name, label, _weight_space(optimizers), _RATES, rate, {"start": STARTS, **options})


PEERS = (
    _peer("adamw", "AdamW", adamw, 0.003, _DECAYS),
    _peer("sgd", "SGD, momentum", sgd, 0.03, {"weight_decay": (0.0, 0.001)}),
    _peer("muon", "Muon", muon, 0.01, _DECAYS),
    _peer("soap", "SOAP", soap, 0.003, _DECAYS),
    _peer("shampoo", "Shampoo", shampoo, 0.0003, _DECAYS),
    _peer("foof", "FOOF", foof, 0.003, {"damping": (0.1, 1.0)}),
)
