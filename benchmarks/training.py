"""One training run for the tables of docs/defaults.md: a network, a space, a seed, and accuracy at given steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning import ReferenceConfig, TargetAdam, TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.lightning.reference_data import reference_size

Data = tuple[Tensor, Tensor, Tensor, Tensor]
_TEST_BATCH = 500

OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    "target": lambda parameters, lr: TargetAdam(parameters, lr=lr),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}


@dataclass(frozen=True)
class Task:
    """What is trained and how long; ``batch`` None takes all samples at every step."""

    build: Callable[[], nn.Module]
    data: str
    at: tuple[int, ...]
    batch: int | None = 100
    gain: float = 1.0  # of the orthogonal and Xavier starts in weight space
    slope: float = 0.0  # of the He start


def start(model: nn.Module, how: str, task: Task) -> None:
    """One of the usual starts of weight space."""
    for layer in model.modules():
        if how == "pytorch" or not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        if how == "xavier":
            nn.init.xavier_uniform_(layer.weight, task.gain)
        elif how == "he":
            nn.init.kaiming_normal_(layer.weight, a=task.slope)
        elif how == "orthogonal":
            nn.init.orthogonal_(layer.weight, task.gain)
        else:
            raise ValueError(f"start {how!r}: expected pytorch, xavier, he or orthogonal.")
        nn.init.zeros_(layer.bias)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is their class."""
    with torch.no_grad():
        hits = sum(
            int((model(a).argmax(1) == b).sum())
            for a, b in zip(x.split(_TEST_BATCH), y.split(_TEST_BATCH), strict=True)
        )
    return hits / len(x)


def target_config(settings: dict[str, Any]) -> TargetSpaceConfig:
    """A config from a flat dict: ``size`` and ``rows`` go to the reference batch, ``optimizer`` is left out."""
    reference = {k: settings[k] for k in ("size", "rows") if k in settings}
    rest = {k: v for k, v in settings.items() if k not in ("size", "rows", "optimizer")}
    return TargetSpaceConfig(reference=ReferenceConfig(**reference), **rest)


def update(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, engine: TargetSpace | None
) -> tuple[Tensor, Tensor]:
    """One training step in either space (``engine`` None is weight space); the outputs and the loss before it."""
    optimizer.zero_grad()
    out = model(x)
    loss = functional.cross_entropy(out, y)
    loss.backward()
    if engine is not None:
        engine.pullback()
    optimizer.step()
    if engine is not None:
        engine.solve()
    return out, loss


def train(task: Task, data: Data, space: str, lr: float, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train with Adam, or what ``settings["optimizer"]`` names.

    Args:
        task: what is trained.
        data: x_train, y_train, x_test, y_test.
        space: "target" or "weight".
        lr: learning rate.
        seed: of the weights, the targets and the order of the samples, which is the same in both spaces.
        settings: for "weight" {"start": ...}; for "target" what differs from the default config.

    Returns:
        ``test``: accuracy at each of ``task.at``; ``first``: the first step at 100 % training accuracy, looked for
        where there are no batches; ``ms``: the median step; ``failed``: the error that ended the run early.
    """
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    model = task.build()
    order = torch.Generator().manual_seed(1000 + seed)
    found: dict[str, Any] = {"test": [], "first": None, "failed": None}
    times: list[float] = []
    engine = None
    try:
        if space == "target":
            config = target_config(settings)
            engine = TargetSpace(model, x[: reference_size(model, config.reference.size)], config)
            parameters = list(engine.parameters())
        else:
            start(model, settings["start"], task)
            parameters = list(model.parameters())
        optimizer = OPTIMIZERS[settings.get("optimizer", "adam")](parameters, lr)
        for step in range(1, max(task.at) + 1):
            chosen = slice(None) if task.batch is None else torch.randint(len(x), (task.batch,), generator=order)
            begin = time.perf_counter()
            out, _ = update(model, x[chosen], y[chosen], optimizer, engine)
            if task.batch is None and found["first"] is None and bool((out.argmax(1) == y).all()):
                found["first"] = step - 1
            times.append(time.perf_counter() - begin)
            if step in task.at:
                found["test"].append(round(accuracy(model, x_test, y_test), 4))
    except TargetSpaceError as error:
        found["failed"] = str(error)
    found["ms"] = round(statistics.median(times) * 1e3, 3) if times else None
    return found
