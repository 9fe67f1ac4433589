"""What a pass over the reference batch was made from, so that the same pass can be made once more.

A checkpoint within a period of ``untangle`` holds these values in the place of maps and of a graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.engine.names import listed, plain_name
from ts_lightning.engine.targets.trained import Trained


@dataclass(frozen=True)
class Values:
    """Copies of all that is trained, and of the model's buffers.

    Attributes:
        targets: by layer name.
        others: parameters in weight space and buffers, each with its copy.
    """

    targets: dict[str, Tensor]
    others: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, trained: Trained, model: nn.Module) -> Values:
        """The present values."""
        targets = {name: target.detach().clone() for name, target in trained.targets.items()}
        return cls(targets, [(own, own.detach().clone()) for own in (*trained.others, *model.buffers())])

    @torch.no_grad()
    def write(self, trained: Trained) -> None:
        """Give these values back."""
        for name, value in self.targets.items():
            trained.targets[name].copy_(value)
        for own, value in self.others:
            own.copy_(value)

    def state_dict(self, model: nn.Module, whole: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """The values by name, of others only those that have changed since.

        Args:
            model: the model.
            whole: a layer's targets of all processes for those of this process.
        """
        names = {id(own): name for name, own in reversed(list(_named(model)))}
        changed = [(own, value) for own, value in self.others if not torch.equal(own, value)]
        return {
            "targets": {name: whole(name, value) for name, value in self.targets.items()},
            "others": {names[id(own)]: value for own, value in changed if id(own) in names},
        }

    @classmethod
    def of_state(
        cls, state: Mapping[str, Any], trained: Trained, model: nn.Module, share: Callable[[str, Tensor], Tensor]
    ) -> Values | None:
        """The values of a :meth:`state_dict`; None, with a warning, where they are of another model.

        Args:
            state: what it gave.
            trained: what is trained of the model.
            model: the model.
            share: this process's targets of a layer for those of all processes.
        """
        named = dict(_named(model))
        given = {plain_name(name): value for name, value in state.get("others", {}).items()}
        strange = [name for name, value in given.items() if name not in named or named[name].shape != value.shape]
        if "targets" not in state or strange:
            what = f" ({listed(strange)})" if strange else ""
            warnings.warn(
                f"The state was written between two passes over the reference batch, and holds other parameters than "
                f"the model{what}. Training goes on with a new pass, and not to the last bit as it would have.",
                stacklevel=6,
            )
            return None
        targets = {name: share(name, state["targets"][name]) for name in trained.targets}
        return cls(targets, [(named[name], value) for name, value in given.items()])


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by all of their names, as they are without torch.compile."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield plain_name(name), parameter
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield plain_name(name), buffer
