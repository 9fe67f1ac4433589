"""Weights that somebody else writes between two solves: a clamp, a checkpoint, a vector of parameters.

They are kept, and solved around from then on, as after any such change.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ts_lightning.engine.solving.solution import Solution
from ts_lightning.engine.targets.target import Target
from ts_lightning.engine.targets.trained import copies_of, write_copies
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_WATCHED = 16  # solves: what a loop or an optimizer does between a step and its solve shows in the first ones


class Outside:
    """What was written to solved weights from outside.

    Args:
        layers: those of the target space.
        solution: the last solve.
        adopt: solves around the weights of modules, by name.

    Attributes:
        pending: what a state says of :meth:`state_dict`, for behind the next solve.
        strayed: how far weights were from the solved ones at the backward passes of this step that were at written
            ones, by their ids, the least of all passes; they may be put back ahead of the step.
    """

    def __init__(
        self, layers: Sequence[TargetLayer], solution: Solution, adopt: Callable[[Collection[str] | None], None]
    ) -> None:
        self._layers, self._solution, self._adopt = layers, solution, adopt
        self.pending: Mapping[str, Any] | None = None
        self.strayed: dict[int, float] = {}
        self._said = self._said_lost = False
        self._looks = 0  # ahead of the solves behind steps

    def modules(self, *, unseen: bool = True) -> list[str]:
        """The modules whose weights were given other values since the last solve, of which the targets know nothing.

        Args:
            unseen: see :meth:`Solution.overwritten`.
        """
        foreign = self._solution.overwritten(unseen=unseen)
        found = [layer.module_name for layer in self._layers if any(id(p) in foreign for p in layer.parameters)]
        return list(dict.fromkeys(found))

    def stray(self, *, unseen: bool) -> bool:
        """Note where the weights are at a backward pass; whether they were written.

        Args:
            unseen: see :meth:`Solution.overwritten`.
        """
        found = self._solution.distances(unseen=unseen)
        for key, distance in found.items():
            self.strayed[key] = min(distance, self.strayed.get(key, distance))
        return bool(found)

    def state_dict(self) -> dict[str, Any]:
        """What was written since the last solve: weights that were solved, by layer name.

        Where it was also something else that the solve was made from, the other layers' weights stand beside them,
        since another solve would not give these.
        """
        if self.pending is not None:
            return dict(self.pending)
        modules = set(self.modules())
        others = self._solution.exists and not all(isinstance(p, Target) for p in self._solution.changed())
        return {
            "weights": copies_of(layer for layer in self._layers if layer.module_name in modules),
            "solved": copies_of(layer for layer in self._layers if others and layer.module_name not in modules),
            "others": others,
        }

    def release(self) -> None:
        """Keep the weights that were written for behind the next solve, which takes everything else as it is."""
        if self._solution.exists:
            weights = self.state_dict()["weights"]
            self.pending = {"weights": weights, "solved": {}, "others": False} if weights else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let what :meth:`state_dict` gave be written, behind a solve as it was."""
        if state["others"]:
            write_copies(self._layers, state["solved"])
            self._solution.accept(copied=True)
            self._solution.outdate()
        write_copies(self._layers, state["weights"])

    def write_pending(self) -> None:
        """Write, behind a solve, what is pending."""
        if self.pending is not None:
            state, self.pending = self.pending, None
            self.load_state_dict(state)

    def before_solve(self) -> bool:
        """In a loop of one's own: solve around what was written, if anything was; whether it was.

        Raises:
            TargetSpaceError: targets were moved before, so that the solve would overwrite what was written.
        """
        return self._keep(self._behind_a_step(), own_loop=True)

    def keep(self, *, own_loop: bool) -> None:
        """Solve around what was written, so that gradients are those of the weights that the loss had.

        Args:
            own_loop: whether the user solves.

        Raises:
            TargetSpaceError: targets were moved before, in a loop of one's own.
        """
        if self.strayed:
            self._solution.put_back(self.strayed)
        self._keep(self.modules(), own_loop)

    def keep_of_step(self, moved: Callable[[], Collection[str]]) -> bool:
        """Solve around what an optimizer's step has written; whether it has.

        Args:
            moved: gives the modules to leave out, whose targets have moved.
        """
        found = self._behind_a_step()
        if not found:
            return False
        theirs = moved()
        lost = [name for name in found if name in theirs]
        if lost and not self._said_lost:
            self._said_lost = True
            warnings.warn(
                f"The weights of {', '.join(lost)} were changed within an optimizer's step, which has moved their "
                f"targets: the solve behind the step overwrites them. Change weights behind optimizer.step(), as in "
                f"on_train_batch_end: they are then kept, and solved around.",
                stacklevel=6,
            )
        return self._keep([name for name in found if name not in theirs], own_loop=False)

    def _behind_a_step(self) -> list[str]:
        self._looks += 1
        return self.modules(unseen=self._said or self._looks <= _WATCHED)

    def _keep(self, found: list[str], own_loop: bool) -> bool:
        if not found:
            return False
        if own_loop and any(isinstance(p, Target) for p in self._solution.changed()):
            raise TargetSpaceError(
                f"The weights of {', '.join(found[:5])} were changed behind optimizer.step() and ahead of solve(), "
                f"which would overwrite them. Change weights behind solve(): they are then kept, and solved around."
            )
        if not self._said:
            self._said = True
            warnings.warn(
                f"The weights of {', '.join(found)} were changed since the last optimizer step. They are kept, and "
                f"solved around from here on, as after any such change. Add the layers to exclude if it happens at "
                f"every step: in weight space it costs nothing.",
                stacklevel=7,
            )
        self._adopt(found)
        return True
