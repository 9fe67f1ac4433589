"""The table of docs/models.md: how much of each model is solved by default, and what is left.

    python -m benchmarks.zoo

The models are those of ``zoo_models.py``. Nothing is downloaded.
"""

from __future__ import annotations

import warnings

import torch

from benchmarks.zoo_models import MODELS
from ts_lightning import TargetSpace


def row(name: str) -> str:
    torch.manual_seed(0)
    model, arguments = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frozen layers
        space = TargetSpace(model, arguments)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    solved = sum(p.numel() for layer in space.layers for p in layer.parameters)
    left = "; ".join(f"{kind}: {reason}" for kind, reason in dict.fromkeys((x.kind, x.reason) for x in space.left))
    again = sum(layer.reused for layer in space.layers)
    return f"| {name} | {len(space.layers)} | {again} | {100 * solved / trainable:.0f} % | {left} |"


def main() -> None:
    print("| model | layers solved | used several times | parameters solved | left |")
    print("|---|---|---|---|---|")
    for name in MODELS:
        print(row(name))


if __name__ == "__main__":
    main()
