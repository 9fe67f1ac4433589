"""How many solves there are from one untangling to the next: fixed, or as the weights' jumps ask for.

The jump at an untangling is ||W_fresh - W_kept|| / ||W_fresh||, median over layers: how far the weights by the maps of
the last untangling are from those by fresh inputs. The period follows it as the step size of an integrator follows its
error. Source: none; docs/mathematics.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ts_lightning.config import Untangle
from ts_lightning.engine.cuda_graphs import Solved
from ts_lightning.layers.base import TargetLayer

_LONGEST = 16  # solves from one untangling to the next
_LONGEST_PAUSE = 8  # untanglings from one judgement to the next
_SHORTER_ABOVE, _LONGER_BELOW = 0.15, 0.05  # jumps in a network of a depth up to _SHALLOW
_SHALLOW = 5  # what is wrong in more layers, or steps of a sequence, adds up, like independent errors


class Period:
    """The period, and when it is judged.

    Args:
        setting: a fixed period, or "auto".
        depth: says through how many solved layers, and steps of a sequence, the longest way leads.

    Attributes:
        length: solves from one untangling to the next.
    """

    def __init__(self, setting: Untangle, depth: Callable[[], int]) -> None:
        self.length = 1 if setting == "auto" else setting
        self._automatic = setting == "auto"
        self._depth = depth
        self._pause = self._waiting = 1  # untanglings between two judgements; to the next one

    def tick(self) -> bool:
        """An untangling at the end of a period follows; whether it is to be judged.

        Where every solve untangles, and the last judgements left it so, some go by without.
        """
        self._waiting = max(0, self._waiting - 1)
        return self._automatic and self._waiting == 0

    @property
    def idle(self) -> bool:
        """Whether the next solve untangles, too, and is not judged, so that nobody asks for what this one leaves."""
        return self._automatic and self.length == 1 and self._waiting > 1

    def judge(self, jump: float) -> None:
        """Set the length of the period that begins."""
        before, jump = self.length, jump / min(1.0, math.sqrt(_SHALLOW / self._depth()))
        if jump > _SHORTER_ABOVE:
            self.length = max(1, self.length // 2)
        elif jump < _LONGER_BELOW:
            self.length = min(_LONGEST, 2 * self.length)
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause) if self.length == before == 1 else 1
        self._waiting = self._pause

    def state_dict(self) -> dict[str, int]:
        """What :meth:`load_state_dict` goes on from."""
        return {"period": self.length, "pause": self._pause, "waiting": self._waiting}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on as a state says; a fixed period stays."""
        if self._automatic:
            self.length = state["period"]
            self._pause, self._waiting = state["pause"], state["waiting"]


@torch.no_grad()
def jump(layers: Sequence[TargetLayer], expected: Solved, fresh: Solved) -> Tensor:
    """The median over layers of ||W_fresh - W_kept|| / ||W_fresh||.

    Args:
        layers: what is solved.
        expected: the parameters and their values by the maps in force.
        fresh: the same by the untangling that follows.
    """
    kept = {id(parameter): value for parameter, value in expected}
    pairs = [(parameter, value, kept[id(parameter)]) for parameter, value in fresh]
    values = [value.detach() for _, value, _ in pairs]
    moved = torch._foreach_sub(values, [other for _, _, other in pairs])
    norms = [torch.stack([n.double() for n in torch._foreach_norm(ts)]).square() for ts in (moved, values)]
    position = {id(parameter): index for index, (parameter, _, _) in enumerate(pairs)}
    jumps = []
    for layer in layers:
        at = [position[id(p)] for p in layer.parameters if id(p) in position]
        if at:
            change, whole = (squares[at].sum() for squares in norms)
            jumps.append((change / whole.clamp_min(torch.finfo(whole.dtype).tiny)).sqrt())
    return torch.stack(jumps).median()
