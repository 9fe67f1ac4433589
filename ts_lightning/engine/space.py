"""TargetSpace: the targets of a model, how its weights are solved from them, and how gradients come back.

The model stays as it is: its layers keep their Parameters, which hold the solved values at every moment outside an
optimizer step. One step is ``solve`` (targets to weights, over the reference batch), the ordinary forward and backward
of the loss, and ``pullback`` (the weights' gradients to the targets). Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ts_lightning.config import Init, TargetSpaceConfig
from ts_lightning.engine.bystanders import watch
from ts_lightning.engine.cuda_graphs import Solved, SolveGraphs, aliases
from ts_lightning.engine.describe import described, start_of
from ts_lightning.engine.fresh import given_layers
from ts_lightning.engine.optimizers import substitute
from ts_lightning.engine.partition import Partition
from ts_lightning.engine.pulled import Pulled
from ts_lightning.engine.reference_batch import Reference, ReferenceBatch
from ts_lightning.engine.reference_pass import ReferencePass
from ts_lightning.engine.selection import Left, name_the_rest, select_layers
from ts_lightning.engine.solution import Solution
from ts_lightning.engine.start import anchor_weights, check_state, project, start
from ts_lightning.engine.survey import survey
from ts_lightning.engine.target import Target
from ts_lightning.engine.trained import Trained
from ts_lightning.engine.untangling import Untangling
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.precision import full_precision
from ts_lightning.ridge.processes import Shards, relative_difference


class TargetSpace:
    """The targets of a model's layers, and the way between them and the weights.

    Examples:
        A training loop in plain PyTorch, here with all samples in every step:

        >>> import torch
        >>> from torch import nn
        >>> from ts_lightning import TargetSpace
        >>> _ = torch.manual_seed(0)
        >>> x = torch.rand(200, 1)
        >>> y = torch.sin(6 * x)
        >>> model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> space = TargetSpace(model, x[:100])
        >>> optimizer = torch.optim.Adam(space.parameters(), lr=0.002)
        >>> def train(steps):
        ...     for _ in range(steps):
        ...         loss = (model(x) - y).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         space.pullback()
        ...         optimizer.step()
        ...         space.solve()
        >>> train(steps=100)
        >>> {name: tuple(target.shape) for name, target in space.targets.items()}
        {'0': (100, 16), '2': (100, 1)}
        >>> bool((model(x) - y).square().mean() < 0.01)
        True

    Args:
        model: any module; its layers are found by name and stay in place.
        reference: the reference batch: a tensor ``x`` for ``model(x)``, a tuple for ``model(*tuple)``, a dictionary for
            ``model(**dictionary)``, any form that ``forward`` takes, or a function without arguments that runs the
            model on it.
        config: the settings; ``None`` for the defaults.
        forward: how the model is run on the reference batch; ``None`` calls it with the batch's items.
        state: what an earlier space's :meth:`state_dict` gave, to go on from; ``None`` starts anew.
        group: the processes that train together, each of which is given the whole reference batch and keeps its share
            (or all of it with ``reference.shard=False``); ``None`` for one process. Gradients on the weights must be
            averaged over them, as DistributedDataParallel does, before :meth:`pullback`.
        loaded: parameters whose values were loaded, so that ``init="auto"`` keeps them whatever they look like.

    Raises:
        TargetSpaceError: the model cannot be trained in target space as asked; says why and what to do.

    Attributes:
        layers: that are solved, in the model's order.
        left: what stays in weight space of all that was meant to be solved: name, kind and reason of each module.
        targets: the trainable targets by layer name, each in the shape of the layer's output on the reference batch,
            or (rows, out) where rows are sampled; in the layer's unit, and in float32 where the weights are of half
            precision. Those of a recurrent module are named after its layers, "rnn.l0", "rnn.l0_reverse", ..., and
            hold all gates, at every step; those of an attention are "attention.in_proj", (n, embed) where its inputs
            differ, and "attention.out_proj". Where processes share the reference batch, those of this process's
            samples.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: Reference,
        config: TargetSpaceConfig | None = None,
        *,
        forward: Callable[[Any], Any] | None = None,
        state: Mapping[str, Any] | None = None,
        group: dist.ProcessGroup | None = None,
        loaded: Collection[nn.Parameter] = (),
    ) -> None:
        self.config = TargetSpaceConfig() if config is None else config
        self.model = model
        self._forward = forward
        self.partition = Partition(group, self.config.reference.shard)
        batch = self._select(reference, state)
        self._trained = Trained(model, self.layers)
        self._device = self.layers[0].parameters[0].device
        alone = self.partition.group is None and all(p.device == self._device for p in model.parameters())
        graphs = self.config.cuda_graphs and self._device.type == "cuda" and alone
        recorder = SolveGraphs(model, self.layers, self._device) if graphs else None
        self._solution = Solution(self._run, self.parameters, recorder)
        self._untangling = Untangling(self.config.untangle, self.layers)
        self.pulled = Pulled(self.layers, lambda: self.pullback(keep=True))
        self._said_adopted = False
        self._steppers = 0  # optimizers that train the targets by their own steps
        self._checked = False  # whether weights written from outside were looked for since the last step
        self._reevaluated = False  # whether the loss was asked for at other targets since the last step
        auto = self.config.init == "auto" and state is None
        self._given = given_layers(self.layers, loaded) if auto else set()
        self._started = start_of(self.config.init, self.layers, self._given, state is not None)
        self._begin(batch, self.config.init, state)
        watch(self)

    def solved_now(self) -> list[tuple[str, nn.Parameter]]:
        """The solved weights with the names of their modules; none once the space is released."""
        layers = self.layers if self._solution.exists else []
        return [(layer.module_name, p) for layer in layers for p in layer.parameters]

    def _select(self, reference: Reference, state: Mapping[str, Any] | None) -> ReferenceBatch:
        """Find what is solved, and what is left in weight space; returns the reference batch, on which this is seen.

        An earlier state says itself which layers could not be solved when its training started.
        """
        found = select_layers(self.model, self.config)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        batch = self._batch(reference, state, device)
        known = {} if state is None else {name: Left(name, *why) for name, *why in state.get("left", ())}
        found.left.update(known)
        found.layers = [layer for layer in found.layers if layer.module_name not in known]
        seen = survey(batch, found, self.config, probe=state is None)
        name_the_rest(self.model, found, self.config, seen)
        found.check(self.model)
        self.layers, self.left = found.layers, list(found.left.values())
        return batch

    def _batch(self, reference: Reference, state: Mapping[str, Any] | None, device: torch.device) -> ReferenceBatch:
        """The reference batch, whose seed follows the user's.

        It is not drawn from the global generator, so that the order of training data is the same with and without
        target space.
        """
        seed = self.partition.seed((state or {}).get("seed", torch.initial_seed() % 2**63), device)
        return ReferenceBatch.of(self.model, reference, self._forward, seed)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: every target, then every parameter of the model that is not solved."""
        yield from self._trained.parameters()

    @property
    def shards(self) -> Shards | None:
        """Which samples of the reference batch each process has; None where each has all."""
        return self.partition.shards

    @property
    def units(self) -> dict[str, float]:
        """What a target of 1 stands for in the units of the outputs, by layer name; see ``step_scale``."""
        return {layer.name: layer.unit for layer in self.layers}

    @property
    def stale(self) -> bool:
        """Whether something changed since the last solve, or its graph was used."""
        solution = self._solution
        return not solution.differentiable or bool(solution.changed())

    def solve(self) -> None:
        """Solve all weights from the targets, and write them to the model.

        Over the reference batch, or within a period of ``untangle`` by the maps that its last pass left.

        Keeps the graph from the targets to the weights for one :meth:`pullback`, until which the targets stay as they
        are. A layer whose weights the user froze keeps them; once it thaws, its targets reproduce them.

        Raises:
            TargetSpaceError: a layer's inputs or targets hold a NaN or an infinity.
        """
        self._hold()
        untangling = self._untangling
        if untangling.due:
            with full_precision(self._device):
                expected = untangling.expected(self.targets)
            self._solution.make(self._replayed)
            if expected is not None:
                jump = untangling.jump(expected, self._solution.pairs)
                self.partition.same([jump])
                untangling.judge(float(jump))
        else:
            untangling.advance()
            self._solution.make_kept(self._run_kept)
        self._write(changed_only=self._steppers > 1)

    def _write(self, *, changed_only: bool) -> None:
        """Write the solution, the first process's where each solves from the whole."""
        self.partition.same_weights(self._solution.write(changed_only))
        if self.partition.replicated:
            self._solution.accept(copied=True)

    def prepare(self) -> None:
        """Make the weights ready for a forward: solve where something changed, but for weights written from outside."""
        solution = self._solution
        if not solution.exists:
            self.solve()
        elif solution.changed() and not solution.overwritten():
            self._reevaluated = True
            self._untangling.end_period()  # so that a search along a line is along one function
            self.solve()

    def stepped(self) -> None:
        """Solve behind an optimizer's step, but for weights written from outside from which nothing was learned."""
        checked, self._checked = self._checked, False
        if self._reevaluated:
            self._reevaluated = False
            self._untangling.end_period()
        if checked or not self._solution.overwritten():
            self.solve()

    def follow_steps(self, optimizers: int) -> None:
        """Count optimizers that train the targets by their own steps; gradients are then pulled back when read.

        Not where processes share the reference batch: all of them have to pull back at the same time.
        """
        self._steppers += optimizers
        before = self.pulled.pull_pending if self._steppers and self.shards is None else None
        for target in self.targets.values():
            target.before_reading = before

    def overwritten(self) -> list[str]:
        """The modules whose weights were given other values since the last solve, of which the targets know nothing."""
        foreign = self._solution.overwritten()
        found = [layer.module_name for layer in self.layers if any(id(p) in foreign for p in layer.parameters)]
        return list(dict.fromkeys(found))

    def adopt_weights(self, modules: Collection[str] | None = None) -> None:
        """Take weights that were written from outside: solve around them, W0, from here on.

        W = W0 + (A'A + R)^-1 A'(T - A W0), with targets T = A W0 that give W0 back.

        Args:
            modules: the names of modules whose weights are taken; the others are solved as before. None for all.
        """
        chosen = {layer.name for layer in self.layers if modules is None or layer.module_name in modules}
        anchor_weights(self._pass, chosen - self._trained.held, self.targets, self._trained.held)
        self._solution.make(self._replayed)
        self._write(changed_only=False)

    def pullback(self, *, keep: bool = False) -> bool:
        """Take the gradients on the weights back to the targets, and clear them from the weights.

        Other parameters that shaped the reference activations (norms, embeddings) receive their share, unless the
        solve was one by kept maps, in which these have none. The gradient is exact for the solve that was made, because
        the map from weights' to targets' gradients is linear: gradients accumulated over several backward passes are
        pulled back at once.

        Args:
            keep: leave the gradients on the weights until they are cleared, for whoever looks at them, and set the
                targets' gradients to what these give in the place of adding to them. Weights that were written since
                the solve are adopted first.

        Returns:
            Whether there were any gradients on the weights.

        Raises:
            TargetSpaceError: there has been no solve since the last pull-back, the targets have changed since, or
                the gradients have a graph of their own.
        """
        solution = self._solution
        if not keep and not solution.differentiable:
            raise TargetSpaceError(
                "pullback() was called twice after one solve(). Call solve() after each optimizer step."
            )
        found = self.pulled.found()
        if found:
            self._pull(keep)
        elif keep:
            self.pulled.withdraw(self.parameters())
        if not keep:
            solution.differentiable = False  # used once, also where there was nothing to pull back
            self.pulled.clear()
        return found

    def _pull(self, keep: bool) -> None:
        self.pulled.check()
        solution = self._solution
        if keep:
            self._checked = True
            if foreign := self.overwritten():
                self._say_adopted(foreign)
                self.adopt_weights(foreign)
        changed = solution.changed()
        moved = [name for name, target in self.targets.items() if any(target is p for p in changed)]
        if moved:
            raise TargetSpaceError(
                f"The targets of {', '.join(moved[:5])} were changed after the weights had been solved from them, "
                f"and the gradients are of these weights. Call pullback() before a change of targets, solve() after it."
            )
        if changed:
            self._untangling.end_period()
            self.solve()  # a norm, say, was written between the solve and this moment
        elif not solution.differentiable:  # the same weights with another graph
            if solution.kept:
                solution.make_kept(self._run_kept)
            else:
                solution.make(self._replayed)
            solution.accept(copied=self.partition.replicated)
        trained = [p for p in self.parameters() if p.requires_grad]  # not those of a toggled-off optimizer
        if not trained:
            return
        with full_precision(self._device):
            # every solve over the reference batch adds up what its processes give
            gradients = solution.gradients(trained, 1.0 if solution.kept else 1 / self.partition.ranks)
        if self.shards is not None:
            mine = zip(trained, gradients, strict=True)
            shared = [g for p, g in mine if g is not None and not isinstance(p, Target)]
            if shared:
                self.shards.sum(*shared)
        self.pulled.give(trained, gradients, keep)

    def _run(self, around: AbstractContextManager[Any] | None = None) -> Solved:
        """The solved parameters and their values, without a CUDA graph; see :meth:`ReferencePass.walk`."""
        solved: Solved = []

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            values, passed = self._untangling.solve(layer, x, self.targets[layer.name], self.shards)
            solved.extend(zip(layer.parameters, values, strict=True))
            return values, passed

        self._untangling.begin()
        with torch.inference_mode(False), torch.enable_grad(), self._trained.unfrozen():
            self._pass.walk(visit, around, self._trained.held)
        self._untangling.end(self.shards)
        return solved

    def _run_kept(self) -> Solved:
        """The same by the maps of the last untangling."""
        with torch.inference_mode(False), torch.enable_grad(), self._trained.unfrozen(), full_precision(self._device):
            return self._untangling.kept(self.targets)

    def _replayed(self) -> Solved | None:
        assert self._solution.graphs is not None
        return self._solution.graphs.solve(self._read(), self._run, self._aliased)

    def _aliased(self) -> AbstractContextManager[dict[int, Tensor]]:
        return aliases(self.model, list(self.parameters()), self.targets)

    def _read(self) -> Iterator[Tensor]:
        """All that a solve reads, but for the reference batch."""
        yield from self.targets.values()
        yield from self.model.parameters()
        yield from self.model.buffers()

    def lose(self) -> None:
        """Let the weights be NaN, as those of weight space are behind a loss that is, since targets are not finite."""
        self._solution.drop()
        with torch.no_grad():
            for layer in self.layers:
                for parameter in layer.parameters:
                    parameter.fill_(torch.nan)

    def _clear(self, weights: Sequence[nn.Parameter]) -> None:
        """Clear gradients as an optimizer's ``zero_grad`` does, which was given targets in the place of these weights.

        A gradient on any weight contributes to the targets of all layers before it. So where optimizers pull back by
        themselves, all weights are cleared, and what has arrived for the targets of the others is pulled back before.
        """
        if self._steppers > 1:
            self.pulled.pull_pending()
        self.pulled.clear(None if self._steppers else weights)

    def release(self) -> None:
        """Free the graph of the last solve; the next :meth:`solve` makes a new one."""
        self._solution.release()

    def project(self) -> None:
        """Replace the targets by what the solved layers achieve, layer by layer, each fed by the one before."""
        with torch.no_grad():
            self._pass.walk(lambda layer, x: project(layer, x, self.targets[layer.name]), None, self._trained.held)
        self._untangling.forget()
        self.solve()

    def residuals(self) -> dict[str, float]:
        """The relative residual ||A W - T|| / ||T|| of each layer, in a solve over the reference batch."""
        found: dict[str, float] = {}

        def visit(layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
            values, passed = layer.solve(x, self.targets[layer.name])
            wanted = self.targets[layer.name] * layer.unit
            found[layer.name] = relative_difference(layer.achieved(x, values), wanted, self.shards)
            return values, passed

        with torch.no_grad():
            self._pass.walk(visit, None, self._trained.held)
        return found

    def substitute(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the targets in the place of the solved weights in ``optimizer``, in place and before its first step.

        A layer's targets take the place of its weight (the first of several); its bias and other weights are taken out.
        Learning rates and other options of the parameter groups stay; so does the list object itself, which LBFGS and
        schedulers hold.

        Raises:
            TargetSpaceError: the optimizer has already made a step.
        """
        substitute(optimizer, self.layers, self.targets, self.partition.ranks, self._clear)

    def follow(self) -> None:
        """Freeze the weights whose targets are frozen, as Lightning's toggling of an optimizer asks, and thaw these."""
        self._trained.follow()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, in tensors and built-in types; where processes share it, the whole, in each."""
        return {
            "targets": {name: self.partition.whole(name, target.detach()) for name, target in self.targets.items()},
            "rows": dict(self._rows),
            "places": {name: list(places) for name, places in self._places.items()},
            "units": self.units,
            "anchors": {layer.name: list(layer.anchor) for layer in self.layers if layer.anchor is not None},
            "left": [list(left) for left in self.left],
            **self._pass.batch.state_dict(),
            **({"untangling": self._untangling.state_dict(self.shards)} if self._untangling.active else {}),
        }

    def describe(self) -> str:
        """What is solved and how it started, what is left in weight space and why, in one line."""
        return described(self.model, self.layers, self.config, self._pass.batch, self._started)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the targets of an earlier :meth:`state_dict` of this space; the weights follow with a solve.

        Raises:
            TargetSpaceError: the state is of other layers, rows or samples.
        """
        check_state(self.state_dict(), state)
        with torch.no_grad():
            for name, target in self.targets.items():
                target.copy_(self.partition.share(name, state["targets"][name]))
        for layer in self.layers:
            layer.anchor = None
            if layer.name in state.get("anchors", {}):
                layer.anchor_at([w0.to(self._device) for w0 in state["anchors"][layer.name]])
        self._untangling.forget()
        self._restore_period(state)
        self._solution.drop()

    def refresh(self, reference: Reference) -> float:
        """Take another reference batch, and targets that reproduce the present weights on it as far as they can.

        The targets keep their Parameters, so that optimizers go on with them; moments of theirs should start anew.

        Returns:
            The largest change of any of the model's outputs on the new reference batch.
        """
        kept = self.targets
        change = self._begin(self._batch(reference, None, self._device), "refresh", None)
        self._solution.drop()
        if any(target.shape != self.targets[name].shape for name, target in kept.items()):
            gc.collect()  # graphs in cycles, for as long as which autograd expects gradients of the old shapes
        for name, target in kept.items():
            target.data = self.targets[name].data
            self.targets[name] = target
        self._untangling.forget()
        self.solve()
        return change

    def _take(self, targets: dict[str, Target]) -> None:
        self.targets = self._trained.targets = targets

    def _hold(self) -> None:
        """Keep the weights of layers that the user froze; those that thawed are solved around theirs."""
        frozen, thawed = self._trained.newly_held()
        if frozen or thawed:
            self._solution.release()
            self._untangling.forget()
        if thawed:
            anchor_weights(self._pass, thawed, self.targets, self._trained.held)

    def _say_adopted(self, modules: Sequence[str]) -> None:
        if not self._said_adopted:
            self._said_adopted = True
            warnings.warn(
                f"The weights of {', '.join(modules)} were changed between two optimizer steps. They are kept, and "
                f"solved around from here on, as after any such change. Add the layers to exclude if it happens at "
                f"every step: in weight space it costs nothing.",
                stacklevel=6,
            )

    def _begin(self, batch: ReferenceBatch, init: Init | Literal["refresh"], state: Mapping[str, Any] | None) -> float:
        """Make or take the targets on a reference batch, and keep this process's share of both.

        Returns:
            At a refresh the largest change of any of the model's outputs on the batch, otherwise 0.
        """
        self.partition.reset(self.layers)
        self.release()
        self._untangling.forget()
        generator = torch.Generator().manual_seed(batch.seed)
        self._pass = run = ReferencePass(batch, self.layers).with_fastest_layout()
        before = run.outputs() if init == "refresh" else []
        started = start(run, self.layers, self.config, init, state, generator, self._given)
        self._rows = {layer.name: layer.rows.cpu() for layer in self.layers if layer.rows is not None}
        self._places = started.places
        self._take(started.targets)
        self.partition.same(list(self.targets.values()))
        self.solve()
        change = _change(run.outputs(), before) if before else 0.0
        if started.deficient:
            layers = ", ".join(f"'{name}' ({rank} of {columns})" for name, rank, columns in started.deficient)
            warnings.warn(
                f"A new reference batch: its rows do not span the inputs of {layers}, so the nearest weights were "
                f"taken there. The largest change of any output on it is {change:.3g}. A larger reference batch, or "
                f"more reference.rows, keeps the function exactly.",
                stacklevel=3,
            )
        self._pass, targets = self.partition.cut(run, self.layers, started)
        self._take(targets)
        if self.shards is not None:
            self._untangling.forget()
            self.solve()
        if state is not None and self._restore_period(state):
            self.solve()
        return change

    def _restore_period(self, state: Mapping[str, Any]) -> bool:
        """Go on within the period of a state; whether its next solve is one by kept maps."""
        return "untangling" in state and self._untangling.load_state_dict(
            state["untangling"], self._device, self.shards
        )


def _change(after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The largest change of any number."""
    return max((float((new - old).abs().max()) for new, old in zip(after, before, strict=True)), default=0.0)
