"""The cascade: the layers' weights, solved one after the other from their targets, and the way of gradients back.

A solve runs the model on the reference batch, each layer with the weights that its targets give for the inputs that the
layers before it really produce (SCU), or within a period of ``untangle`` applies the maps that the last such pass left.
The graph of a pass takes the gradients on the weights back to the targets; without ``cascade_gradient`` those of dense
layers are products with the maps. Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.cuda_graphs import Solved, SolveGraphs, aliases
from ts_lightning.engine.reference.loops import OnTargets
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.reference.walk import Solve
from ts_lightning.engine.solving.outside import Outside
from ts_lightning.engine.solving.parameter_hooks import ParameterHooks, hooked
from ts_lightning.engine.solving.pulled import Pulled
from ts_lightning.engine.solving.solution import Solution
from ts_lightning.engine.solving.staying import Staying
from ts_lightning.engine.targets.partition import Partition
from ts_lightning.engine.targets.start import project
from ts_lightning.engine.targets.target import Target
from ts_lightning.engine.targets.trained import Trained
from ts_lightning.engine.untangle.period import jump
from ts_lightning.engine.untangle.untangling import Untangling
from ts_lightning.errors import TargetSpaceError, Unreached
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.precision import full_precision
from ts_lightning.ridge.processes import relative_difference


class Cascade:
    """The layers of one model with their targets.

    Args:
        model: the model.
        layers: those of its layers that are solved.
        config: the settings.
        partition: the processes' shares.

    Attributes:
        targets: by layer name.
        reference: the pass over the reference batch, of which this process has its share.
        trained: what is trained beside the targets, and what is frozen.
        solution: the last solve.
        untangling: when the reference batch is gone through.
        outside: what was written to weights from outside.
        staying: lets given weights stay where their inputs change.
        pulled: what of the weights' gradients has been pulled back.
        checked: whether weights written from outside were looked for since the last step.
        changed_only: whether weights that hold their value already are left alone, see :meth:`Solution.write`.
    """

    reference: ReferencePass

    def __init__(
        self, model: nn.Module, layers: list[TargetLayer], config: TargetSpaceConfig, partition: Partition
    ) -> None:
        self.model, self.layers, self.partition = model, layers, partition
        self.targets: dict[str, Target] = {}
        self.device = layers[0].parameters[0].device
        self.trained = Trained(model, layers)
        alone = self.partition.group is None and all(p.device == self.device for p in model.parameters())
        graphs = config.cuda_graphs and self.device.type == "cuda" and alone
        recorder = SolveGraphs(model, layers, self.device) if graphs else None
        self.untangling = Untangling(config, layers, self.trained, model)
        self.solution = Solution(self._run, self.trained, recorder, lambda: self.untangling.lasting)
        self.outside = Outside(layers, self.solution, self.adopt)
        self.staying = Staying(model, layers, self.solution, partition, self.solve, self.adopt)
        self.pulled = Pulled(layers, lambda: self.pullback(keep=True))
        self.checked = self.changed_only = False
        self._hooks = ParameterHooks()

    def take(self, targets: dict[str, Target]) -> None:
        """Solve from these targets."""
        self.targets = self.trained.targets = targets

    def solve(self) -> None:
        """Solve all weights and write them; see :meth:`TargetSpace.solve`."""
        self.solution.check_precision()
        self._hold()
        untangling = self.untangling
        if not self.solution.lasts:
            untangling.end_period()
        untangling.resume(lambda: self.solution.make(self._replayed))
        if untangling.due:
            expected = self._run_kept() if untangling.judged() else None
            self.solution.make(self._replayed)
            if expected is not None:
                self.partition.same([moved := jump(self.layers, expected, self.solution.pairs)])
                untangling.period.judge(float(moved))
        else:
            untangling.advance()
            self.solution.make_kept(self._run_kept)
        self._write(self.changed_only)
        self.outside.write_pending()

    def adopt(self, modules: Collection[str] | None) -> None:
        """Solve around the weights of these modules, or of all; see :meth:`TargetSpace.adopt_weights`."""
        self.trained.settle()
        self._hold()  # of layers frozen since the last solve, too
        chosen = {layer.name for layer in self.layers if modules is None or layer.module_name in modules}
        self._anchor(chosen - self.trained.held)
        self.solution.make(self._replayed)
        self._write(changed_only=False)

    def pullback(self, *, keep: bool) -> bool:
        """Take the gradients on the weights back to the targets; see :meth:`TargetSpace.pullback`."""
        solution = self.solution
        if not keep and not solution.differentiable:
            if not solution.exists:
                raise TargetSpaceError(
                    "pullback() found no solve. Call solve() after load_state_dict() or release(), before the forward."
                )
            raise TargetSpaceError(
                "pullback() was called twice after one solve(). Call it once ahead of each optimizer step, behind all "
                "backward passes that the step adds up, and solve() after the step."
            )
        found = self.pulled.found()
        if found:
            self._pull(keep)
        elif keep:
            self.checked = False
            self.pulled.given.withdraw(self.trained.parameters())
        if not keep:
            solution.differentiable = False  # used once, also where there was nothing to pull back
            self.pulled.clear()
        return found

    def project(self) -> None:
        """Replace the targets by what the solved layers achieve."""
        self._walk(lambda layer, x: project(layer, x, self.targets[layer.name]))
        self.untangling.forget()
        self.solve()

    def residuals(self) -> dict[str, float]:
        """The relative residual of each layer."""
        found: dict[str, float] = {}

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            values, passed = layer.solve(x, self.targets[layer.name])
            wanted = self.targets[layer.name] * layer.unit
            found[layer.name] = relative_difference(layer.achieved(x, values), wanted, self.partition.shards)
            return values, passed

        with torch.no_grad():
            self.reference.walk(visit, None, self.trained.held, force=OnTargets(self.targets))
        return found

    def lose(self) -> None:
        """Let the weights be NaN, as those of weight space are behind a loss that is, since targets are not finite."""
        self.solution.drop()
        self.solution.lost = True
        with torch.no_grad():
            for parameter in self.trained.solved:
                parameter.fill_(torch.nan)

    def _write(self, changed_only: bool) -> None:
        """Write the solution, the first process's where each solves from the whole."""
        self._hooks.observe(self.trained.others)
        agree = self.partition.same_values if self.partition.replicated else None
        self.partition.compare(self.solution.write(changed_only, agree), self.trained.others)
        if self.partition.replicated:
            self.solution.accept(copied=True)

    def _hold(self) -> bool:
        """Keep the weights of layers that the user froze; those that thawed are solved around theirs.

        Returns:
            Whether there were any since the last call, so that the last solve is of no use.
        """
        self.solution.follow()
        frozen, thawed = self.trained.newly_held()
        if frozen or thawed:
            self.solution.release()
            self.untangling.forget()
        if thawed:
            self._anchor(thawed)
        return bool(frozen or thawed)

    def _pull(self, keep: bool) -> None:
        self.pulled.check()
        self.trained.settle()
        self.trained.wake()
        solution = self.solution
        self.checked = True
        self.outside.keep(own_loop=not keep)
        solution.check_precision()
        changed = solution.changed()
        moved = [layer.name for layer in self.trained.moved(changed)]
        if moved:
            raise TargetSpaceError(
                f"The targets of {', '.join(moved[:5])} were changed after the weights had been solved from them, "
                f"and the gradients are of these weights. Call pullback() before a change of targets, solve() after it."
            )
        self.staying.before_pullback(lambda: solution.make(self._replayed))
        if self._hold() or changed or self.untangling.outdated or not solution.lasts:
            self.untangling.end_period()
            self.solve()  # a norm, say, was written between the solve and this moment
        elif solution.used_up:
            solution.make(self._replayed)  # the same weights with another graph
            solution.accept(copied=self.partition.replicated)
        spent = self.pulled.spent() if keep else []
        stepped = self._targets_of(spent)  # whose gradients stay; and not those of a toggled-off optimizer
        trained = [p for p in self.trained.parameters() if p.requires_grad and id(p) not in stepped]
        if not trained:
            return
        with self.pulled.without(spent):
            gradients = self._gradients(trained)
        if self.partition.shards is not None:
            mine = zip(trained, gradients, strict=True)
            if shared := [g for p, g in mine if g is not None and not isinstance(p, Target)]:
                self.partition.shards.sum(*shared)
        self.pulled.give(trained, gradients, keep)
        self.partition.pulled(self.pulled.gradients, self.targets.values())

    def _targets_of(self, weights: Sequence[nn.Parameter]) -> set[int]:
        """The ids of the targets that these weights are solved from."""
        known = set(map(id, weights))
        chosen = [layer for layer in self.layers if not known.isdisjoint(map(id, layer.parameters))] if known else []
        return {id(self.targets[layer.name]) for layer in chosen}

    def _run(self, around: AbstractContextManager[Any] | None = None) -> Solved:
        """The solved parameters and their values, without a CUDA graph; see :meth:`ReferencePass.walk`."""
        solved: Solved = []
        shards = self.partition.shards

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            values, passed = self.untangling.solve(layer, x, self.targets[layer.name], shards)
            solved.extend(zip(layer.parameters, values, strict=True))
            return values, passed

        try:
            with self.untangling.begin():
                self._walk(visit, around)
        except Unreached as error:
            used = not self.reference.walked or self.reference.applies(error.layers)
            if used or not self.trained.rest(error.layers):
                raise
            self.untangling.forget()
            return self._run(around)
        self.untangling.end(shards)
        return solved

    def _walk(
        self, visit: Solve, around: AbstractContextManager[Any] | None = None, kept: Collection[str] = ()
    ) -> None:
        """Go through the reference batch with gradients, as a solve does; products have other last bits without."""
        with torch.inference_mode(False), torch.enable_grad(), self.trained.alone():
            self.reference.walk(visit, around, self.trained.held, force=OnTargets(self.targets, kept))

    def _anchor(self, chosen: Collection[str]) -> None:
        """Anchor these layers, by name, at the weights that they have; the others are solved."""

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            if layer.name in chosen:
                with torch.no_grad():
                    self.targets[layer.name].copy_(layer.anchored_targets(x))
            return layer.solve(x, self.targets[layer.name])

        self._walk(visit, kept=chosen)

    def _run_kept(self) -> Solved:
        """The same by the maps of the last untangling, without a graph."""
        with torch.inference_mode(False), full_precision(self.device):
            return self.untangling.kept(self.targets)

    def _gradients(self, trained: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradients on ``trained`` for those on the weights."""
        with full_precision(self.device), self._hooks.acting(self.trained.others):
            by_map = self.untangling.pull(self.targets)
            # every solve over the reference batch adds up what its processes give
            found = self.solution.gradients(trained, 1 / self.partition.ranks)
        if not by_map:
            return found
        self.solution.differentiable = False
        own = {id(self.targets[name]): hooked(self.targets[name], gradient) for name, gradient in by_map.items()}
        return [own.get(id(p), gradient) for p, gradient in zip(trained, found, strict=True)]

    def _replayed(self) -> Solved | None:
        assert self.solution.graphs is not None
        return self.solution.graphs.solve(self._read(), self._run, self._aliased)

    def _aliased(self) -> AbstractContextManager[dict[int, Tensor]]:
        return aliases(self.model, list(self.trained.parameters()), self.targets)

    def _read(self) -> Iterator[Tensor]:
        """All that a solve reads, but for the reference batch."""
        yield from self.targets.values()
        yield from self.model.parameters()
        yield from self.model.buffers()
