"""What a user changes in mid-training: parameters that are frozen within some steps, and weights that are written."""

from __future__ import annotations

import torch


class Change:
    """Freezes the parameters whose names begin with ``frozen`` in the steps ``within``, and thaws them in the others.

    Clamps those that begin with ``written`` behind each of the steps ``behind``.
    """

    def __init__(self, frozen=(), within=(), written=(), behind=()):
        self.frozen, self.within, self.written, self.behind = frozen, within, written, behind

    def before(self, model, step):
        for name, parameter in model.named_parameters():
            if name.startswith(self.frozen):
                parameter.requires_grad_(step not in self.within)

    @torch.no_grad()
    def after(self, model, step):
        for name, parameter in model.named_parameters():
            if step in self.behind and name.startswith(self.written):
                parameter.clamp_(-0.1, 0.1)
