"""The weights solved last: their values, the graph that they hang on, and what has changed since.

A solution is made by a pass over the reference batch (or by the replay of a CUDA graph), written to the Parameters, and
used for pull-backs. It is out of date once something that it was made from has changed. Its graph is used up by one
pull-back, and the next one makes it anew; or it lasts, and serves the solutions by kept maps that follow, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from ts_lightning.engine.cuda_graphs import Run, Solved, SolveGraphs
from ts_lightning.engine.targets.target import Target, version
from ts_lightning.engine.targets.trained import Trained
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.part import Part
from ts_lightning.ridge.precision import cast

_ROUNDING = 4  # units in the last place of the largest weight: of w + e - e, up to an e of three times that weight


class Solution:
    """The pairs of Parameters and solved values, and their state.

    Args:
        run: makes a solve.
        trained: says what is solved, and what a solve depends on.
        graphs: replays solves on a GPU; None where they are run.
        lasting: says whether the graph of the last pass over the reference batch serves until the next one.

    Attributes:
        differentiable: whether no pull-back has been made.
        kept: whether it was made by kept maps, without the reference batch.
        pairs: the Parameters and their values; empty where there was no solve since the last :meth:`drop`.
        graphs: see above.
        released: whether :meth:`release` was called since the last solve.
        lost: whether a solve failed since the last one, so that the weights are NaN.
    """

    def __init__(
        self,
        run: Run,
        trained: Trained,
        graphs: SolveGraphs | None,
        lasting: Callable[[], bool],
    ) -> None:
        self.differentiable = False
        self.kept = self.released = self.lost = False
        self.graphs = graphs
        self._run, self._read, self._lasting = run, trained.read, lasting
        self._parts = [parameter for parameter in trained.solved if type(parameter) is Part]
        self.pairs: Solved = []
        self._graph: Solved = []  # the Parameters and the values of the last pass, with its graph
        self._versions: dict[int, tuple[int, int]] = {}
        self._precisions: list[tuple[nn.Parameter, torch.dtype]] = []  # of what the graph was made of
        self._written: list[tuple[int, int]] = []
        self._rounded: list[torch.dtype] = []  # the precisions in which it was written
        self._accepted: list[Tensor] | None = None

    def drop(self) -> None:
        """Free the graph, and the values where no Parameter holds them."""
        self._drop_values()
        self._graph = []

    def _drop_values(self) -> None:
        self.differentiable = False
        self.pairs, self._written, self._accepted = [], [], None

    def release(self) -> None:
        """Free CUDA graphs, too; they can be recorded anew."""
        self.drop()
        self.released = True
        if self.graphs is not None:
            self.graphs.forget()

    @property
    def exists(self) -> bool:
        """Whether there has been a solve since the last :meth:`drop`."""
        return bool(self.pairs)

    @property
    def lasts(self) -> bool:
        """Whether there is the graph of a last pass, where one is to last."""
        return bool(self._graph) or not self._lasting()

    @property
    def used_up(self) -> bool:
        """Whether another graph has to be made for a pull-back."""
        return not self.differentiable and not self._lasting()

    def follow(self) -> None:
        """Let parts of parameters be those of what their wholes hold now."""
        for part in self._parts:
            part.follow()

    def make(self, replay: Callable[[], Solved | None]) -> None:
        """Solve anew, without writing to the Parameters."""
        self.drop()
        replayed = None if self.graphs is None else replay()
        self._made(self._run(None) if replayed is None else replayed, kept=False)
        self._graph = self.pairs
        self._precisions = [(p, p.dtype) for p in self._read()]

    def make_kept(self, solved: Callable[[], Solved]) -> None:
        """Take what kept maps give, without writing to the Parameters; the graph is that of the last pass."""
        self._drop_values()
        self._made(solved(), kept=True)

    def _made(self, solved: Solved, *, kept: bool) -> None:
        self.pairs, self.kept = solved, kept
        self.released = self.lost = False
        self._versions = {id(p): version(p) for p in self._read()}
        self.differentiable = True

    @torch.no_grad()
    def write(
        self, changed_only: bool, agree: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None
    ) -> list[nn.Parameter]:
        """Copy the values to the Parameters, which are returned.

        Args:
            changed_only: leave Parameters alone that hold their value already, so that a graph of autograd that
                has yet to go backward through them stays valid.
            agree: gives the values that all processes write; None where each has the same.
        """
        pairs = self.pairs
        if agree is not None:
            values = agree([cast(value, p.dtype) for p, value in pairs])
            pairs = [(p, value) for (p, _), value in zip(pairs, values, strict=True)]
        if changed_only:
            pairs = [(p, value) for p, value in pairs if not torch.equal(p, cast(value, p.dtype))]
        if pairs:  # none where all layers are frozen, or none changed
            torch._foreach_copy_([p for p, _ in pairs], [value for _, value in pairs])
        self.accept()
        return [parameter for parameter, _ in self.pairs]

    def accept(self, *, copied: bool = False) -> None:
        """Take the Parameters' present values for those that were written.

        Args:
            copied: keep a copy of them, where they differ by rounding from this process's own solution.
        """
        self._written = [version(parameter) for parameter, _ in self.pairs]
        self._rounded = [parameter.dtype for parameter, _ in self.pairs]
        self._accepted = [parameter.detach().clone() for parameter, _ in self.pairs] if copied else None

    def changed(self) -> list[nn.Parameter]:
        """The parameters of which it was made that have changed since, and those that joined, as versions tell.

        A fused optimizer and a write through ``.data`` of a parameter that is no target move no version.
        """
        return [p for p in self._read() if self._versions.get(id(p)) != version(p)]

    def outdate(self) -> None:
        """Take all but targets for changed since the solve."""
        self._versions = {id(p): version(p) for p in self._read() if isinstance(p, Target)}

    def check_precision(self) -> None:
        """Raise TargetSpaceError if parameters in the graph have another precision than it was made with."""
        other = [(p.dtype, dtype) for p, dtype in self._precisions if p.dtype != dtype]
        if other:
            found, made = (str(one).removeprefix("torch.") for one in other[0])
            raise TargetSpaceError(
                f"Parameters that are trained beside targets, as norms, were converted behind a solve: found {found}, "
                f"expected {made}, of which targets and reference batch are. In a fit convert the model between steps, "
                f"as in on_train_batch_end. In a loop of your own convert it, call space.release(), and make another "
                f"TargetSpace with init='weights', and another optimizer."
            )

    @torch.no_grad()
    def distances(self, *, unseen: bool) -> dict[int, float]:
        """How far solved Parameters that were overwritten lie from what was written, by their ids: the largest entries.

        Args:
            unseen: see :meth:`overwritten`.
        """
        found = self.overwritten(unseen=unseen)
        return {id(p): _distance(p, cast(value, p.dtype)) for p, value in self._expected() if id(p) in found}

    @torch.no_grad()
    def put_back(self, before: Mapping[int, float]) -> None:
        """Write Parameters anew that differ from what was written by the rounding of a sum and its undoing alone.

        Args:
            before: the distances at which they were ahead of the undoing, by their ids; one that lies as far as then
                was not undone, and holds a small write, as of weight decay.
        """
        for n, (parameter, value) in enumerate(self._expected()):
            if (farther := before.get(id(parameter))) is None:
                continue
            wanted = cast(value, parameter.dtype)
            rounding = _ROUNDING * torch.finfo(parameter.dtype).eps * float(wanted.abs().max())
            if 0 < _distance(parameter, wanted) <= min(rounding, farther / 2):
                parameter.copy_(wanted)
                self._written[n] = version(parameter)

    def overwritten(self, *, unseen: bool = True) -> set[int]:
        """The ids of solved Parameters that hold other values than were written, of which the targets know nothing.

        Args:
            unseen: whether writes through ``.data`` count, which takes a look at every number.
        """
        return {
            id(parameter)
            for (parameter, value), written in zip(self._expected(), self._written, strict=True)
            if ((unseen and parameter.device.type == "cpu") or version(parameter) != written)
            and not torch.equal(parameter, cast(value, parameter.dtype))
        }

    def _expected(self) -> Solved:
        """The Parameters and the values that they were given, in the precision of then if the model was converted."""
        self.follow()
        if self._accepted is not None and self.pairs:
            return [(parameter, kept) for (parameter, _), kept in zip(self.pairs, self._accepted, strict=True)]
        given = zip(self.pairs, self._rounded, strict=False)
        return [(p, value if p.dtype == dtype else cast(value, dtype)) for (p, value), dtype in given]

    def gradients(self, trained: Sequence[Tensor], scale: float) -> Sequence[Tensor | None]:
        """The gradients on ``trained`` for the weights' gradients times ``scale``; uses a graph up that does not last.

        The map from the weights' gradients is linear, so that gradients accumulated over several backward passes are
        pulled back at once.
        """
        # a value may depend on no target: the redundant bias of a recurrent layer, kept at zero
        pulled = [p.grad is not None and value.requires_grad for p, value in self._graph]
        chosen = list(compress(self._graph, pulled))
        if not chosen:
            return [None] * len(trained)
        self.differentiable = False
        arriving = [cast(p.grad, value.dtype) for p, value in chosen if p.grad is not None]
        if scale != 1.0:
            arriving = [gradient * scale for gradient in arriving]
        if self.graphs is not None and self.graphs.replayed:
            found = self.graphs.pull(pulled, trained, arriving, self._run)
        else:
            try:
                found = torch.autograd.grad(
                    [value for _, value in chosen], trained, arriving, retain_graph=self._lasting(), allow_unused=True
                )
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
                raise TargetSpaceError(
                    f"The forward on the reference batch writes in place to tensors that gradients need ({error}). It "
                    f"runs in eval mode, in which a model may keep states in a cache: turn that off (use_cache=False "
                    f"in transformers), or override reference_forward."
                ) from error
        if not self._lasting():
            self._graph = []
            self.pairs = [(parameter, value.detach()) for parameter, value in self.pairs]  # frees what the graph held
        return found


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest entry of a difference."""
    return float((one - other).abs().max())
