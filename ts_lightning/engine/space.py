"""TargetSpace: the targets of a model, how its weights are solved from them, and how gradients come back.

The model stays as it is: its layers keep their Parameters, which hold the solved values at every moment outside an
optimizer step. One step is ``solve`` (targets to weights, over the reference batch), the ordinary forward and backward
of the loss, and ``pullback`` (the weights' gradients to the targets). Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.engine.beginning import Beginning, settings_of
from ts_lightning.engine.describe import described, start_of
from ts_lightning.engine.fresh import given_layers
from ts_lightning.engine.names import chosen
from ts_lightning.engine.reference.reference_batch import Reference
from ts_lightning.engine.solving.cascade import Cascade
from ts_lightning.engine.steps.attached import AttachedOptimizer, attach
from ts_lightning.engine.steps.bystanders import check_alone, look_again, watch
from ts_lightning.engine.steps.optimizers import substitute
from ts_lightning.engine.steps.stepping import Stepping
from ts_lightning.engine.structure import Structure
from ts_lightning.engine.survey.survey import choose
from ts_lightning.engine.targets.partition import Partition
from ts_lightning.engine.targets.target import Target
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.processes import Shards


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
        group: the processes that train together and average gradients on the weights before :meth:`pullback`. Each is
            given the whole reference batch, and keeps its share unless ``reference.shard=False``. ``None`` for one.
        loaded: parameters whose values were loaded, so that ``init="auto"`` keeps them whatever they look like.

    Raises:
        TargetSpaceError: the model cannot be trained as asked, or a space that was not released solves layers of it.
        ValueError: ``until`` is set, which needs a Trainer.

    Attributes:
        config: the settings.
        model: the model.
        left: what stays in weight space of all that was meant to be solved: name, kind and reason of each module.
        cascade, stepping, partition: for whoever builds on the engine the solve of all layers and its pull-back, what
            happens around the steps of optimizers, and the processes' shares.
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
        self.config = settings_of(config, model, goes_on=state is not None)
        self.model = model
        self.partition = Partition(group, self.config.reference.shard)
        self._forward = forward
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        batch = self.partition.batch(model, reference, forward, device, state)
        self.partition.same_model(batch)
        found = choose(batch, self.config, state, alone=group is None)
        check_alone(model, found.layers)
        self.left = list(found.left.values())
        self.cascade = Cascade(model, found.layers, self.config, self.partition)
        self.stepping = Stepping(self.cascade)
        given = given_layers(found.layers, loaded) if self.config.init == "auto" and state is None else set()
        self._started = start_of(self.config.init, found.layers, given, state is not None)
        self._beginning = Beginning(self.cascade, self.config, given)
        self._beginning.begin(batch, self.config.init, state)
        self.cascade.staying.begin(state is not None)
        self.stepping.follow()
        self._structure = Structure(model, found.layers, self.cascade.trained.frozen())
        watch(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What copies are made from; while the space holds a solution there are none."""
        if not self.cascade.solution.exists:
            return super().__reduce_ex__(protocol)
        raise TargetSpaceError(
            "A TargetSpace is neither copied nor pickled before its release. Copy or save the model and "
            "space.state_dict(), and make a TargetSpace of the other model with state=."
        )

    @property
    def layers(self) -> list[TargetLayer]:
        """The layers that are solved, in the model's order."""
        return self.cascade.layers

    @property
    def targets(self) -> dict[str, Target]:
        """The trainable targets by layer name.

        Each has the shape of the layer's output on the reference batch, or (rows, out) where rows are sampled; it is in
        the layer's unit, and in float32 where the weights are of half precision. Those of a recurrent module are named
        after its layers, "rnn.l0", "rnn.l0_reverse", ..., and hold all gates, at every step; those of an attention are
        "attention.in_proj", (n, embed) where its inputs differ, and "attention.out_proj"; those of the parts of a
        parameter are "w.0", "w.1", ... Where processes share the reference batch, those of this process's samples.
        """
        return self.cascade.targets

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: every target, then every parameter of the model that is not solved."""
        yield from self.cascade.trained.parameters()

    @property
    def shards(self) -> Shards | None:
        """Which samples of the reference batch each process has, by ``bounds(rank)``; None where each has all."""
        return self.partition.shards

    @property
    def units(self) -> dict[str, float]:
        """What a target of 1 stands for in the units of the outputs, above 0, by layer name; see ``step_scale``."""
        return {layer.name: layer.unit for layer in self.layers}

    @property
    def stale(self) -> bool:
        """Whether something changed since the last solve, or its graph was used."""
        return not self.cascade.solution.differentiable or bool(self.cascade.solution.changed())

    def solve(self) -> None:
        """Solve all weights from the targets, and write them to the model.

        Within a period of ``untangle`` by the maps that the last pass over the reference batch left.
        Keeps the way from targets to weights, a graph or maps, for one :meth:`pullback`, until which targets stay as
        they are. Adopts weights that were written from outside. A layer that the user froze keeps its weights; once it
        thaws, its targets reproduce them.

        Raises:
            TargetSpaceError: a NaN or an infinity, other parameters than targets were made for, or written weights.
        """
        self._structure.check(self.release)
        if self.cascade.solution.exists:
            self.cascade.trained.settle()
        else:
            check_alone(self.model, self.layers)  # released, since which another may have been made
        if not self.cascade.outside.before_solve():
            self.cascade.solve()

    def _solve_behind_step(self) -> None:
        """What an attached optimizer's step ends with."""
        self._structure.check(self.release)
        self.stepping.stepped()

    def follow_model(self) -> str | None:
        """In words, which parameters are others than those of the targets; where modules are, the next solve is new."""
        return self._structure.follow(self.release)

    def adopt_weights(self, modules: Collection[str] | None = None) -> None:
        """Take weights W0 that were written from outside, and solve around them from here on.

        W = W0 + (A'A + R)^-1 A'(T - A W0), with targets T = A W0 that give W0 back.

        Args:
            modules: names or globs of solved modules whose weights are taken; others stay. None for all.

        Raises:
            TargetSpaceError: a name matches no module that is solved; TypeError where it is no list of names.
        """
        self.cascade.adopt(chosen(modules, [layer.module_name for layer in self.layers], "modules"))

    def pullback(self, *, keep: bool = False) -> bool:
        """Take the gradients on the weights back to the targets, and clear them from the weights.

        Other parameters that shaped the reference activations (norms, embeddings) receive their share. The gradient is
        exact for a solve over the reference batch; after one by the maps that the last such solve left, it takes the
        way back of that solve. Without ``cascade_gradient`` it is that of each layer's own solve. It is linear, so that
        several backward passes are pulled back at once. Weights that were written since the solve are adopted first.

        Args:
            keep: leave the gradients on the weights until they are cleared, for whoever looks at them, and set the
                targets' gradients to what these give in the place of adding to them.

        Returns:
            Whether there were any gradients on the weights.

        Raises:
            TargetSpaceError: no solve since the last pull-back, targets changed since, or gradients that have a graph.
        """
        return self.stepping.pullback(keep=keep)

    def release(self) -> None:
        """Free the graph of the last solve, and let go of the weights until the next :meth:`solve`."""
        self.cascade.outside.release()
        self.cascade.solution.release()

    def project(self) -> None:
        """Replace the targets by what the solved layers achieve, layer by layer, each fed by the one before."""
        self.cascade.project()

    def residuals(self) -> dict[str, float]:
        """The relative residuals ||A W - T|| / ||T|| >= 0, by layer name, in a solve over the reference batch."""
        return self.cascade.residuals()

    def substitute(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the targets in the place of the solved weights in ``optimizer``, in place and before its first step.

        A layer's targets take the place of its weight (the first of several), those of parts that of the whole; its
        bias and other weights are taken out. Learning rates and other options of groups stay, and the list itself,
        which LBFGS and schedulers hold. So it is in optimizers that it holds, as Lookahead does.

        Raises:
            TargetSpaceError: the optimizer has already made a step, or keeps weights elsewhere.
        """
        stepping = self.stepping
        substitute(optimizer, self.layers, self.targets, self.partition.ranks, stepping.clear, stepping.solve_if_moved)
        look_again(optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> AttachedOptimizer:
        """Let the steps of ``optimizer`` pull back ahead and solve behind, where a library or a closure makes them.

        One of weights is given targets first, by :meth:`substitute`. :meth:`pullback` and :meth:`solve` do no harm, and
        are due ahead of clipping of targets in several processes, and behind a loaded state or a release.

        Returns:
            A handle, as of a hook of torch, whose ``remove()`` leaves both to the user again.

        Raises:
            TargetSpaceError: it is attached already, trains nothing of this space, or as :meth:`substitute` says; its
                steps raise what both raise, and where a solve was due.
        """
        return attach(self.stepping, optimizer, self.substitute, self._solve_behind_step)

    def gradient_norm(self) -> torch.Tensor:
        """The 2-norm of the gradients of :meth:`parameters` behind a pull-back, over the targets of all processes."""
        return self.partition.gradient_norm(self.parameters(), self.targets)

    def follow(self) -> None:
        """Freeze the weights whose targets are frozen, as Lightning's toggling of an optimizer asks, and thaw these."""
        self.cascade.trained.follow()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, in tensors and built-in types; where processes share it, the whole, in each."""
        return {**self._beginning.state_dict(), "left": [list(left) for left in self.left]}

    def describe(self) -> str:
        """What is solved and how it started, what is left in weight space and why, in one line."""
        reasons = {left.name: left.reason for left in self.left}
        return described(self.model, self.layers, self.config, self.cascade.reference.batch, self._started, reasons)

    __repr__ = describe

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the targets of an earlier :meth:`state_dict` of this space; call :meth:`solve` behind it.

        Raises TargetSpaceError if the state is of other layers, rows or samples.
        """
        self._beginning.load_state_dict(state)

    def refresh(self, reference: Reference) -> float:
        """Take another reference batch, and targets that reproduce the present weights on it as far as they can.

        The targets keep their Parameters, so that optimizers go on with them; moments of theirs should start anew.
        Returns the largest change of any of the model's outputs on the new reference batch.
        """
        return self._beginning.refresh(self.partition.batch(self.model, reference, self._forward, self.cascade.device))
