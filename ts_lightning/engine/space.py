"""TargetSpace: the targets of a model, how its weights are solved from them, and how gradients come back.

The model stays as it is: its layers keep their Parameters, which hold the solved values at every moment outside an
optimizer step. One step is ``solve`` (targets to weights, over the reference batch), the ordinary forward and backward
of the loss, and ``pullback`` (the weights' gradients to the targets). Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import compress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ts_lightning.config import Init, TargetSpaceConfig
from ts_lightning.engine.cuda_graphs import Solved, SolveGraphs, aliases
from ts_lightning.engine.optimizers import substitute
from ts_lightning.engine.reference_batch import Reference, ReferenceBatch
from ts_lightning.engine.reference_pass import ReferencePass
from ts_lightning.engine.selection import select_layers
from ts_lightning.engine.start import keep_share, project, start
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.precision import full_precision
from ts_lightning.ridge.processes import Cut, Shards, broadcast, let_messages_end, relative_difference

_TOLERANCE = 0.02  # of a solution's norm, up to which weights are those that were solved


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

    Raises:
        TargetSpaceError: the model cannot be trained in target space as asked; says why and what to do.

    Attributes:
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
    ) -> None:
        self.config = TargetSpaceConfig() if config is None else config
        self.model = model
        self.targets: dict[str, nn.Parameter] = {}
        self.layers = select_layers(model, self.config)
        self._forward = forward
        self._group = group if group is not None and dist.get_world_size(group) > 1 else None
        if self._group is not None and dist.get_backend(self._group) == "gloo":
            let_messages_end()
        self._solved: Solved = []
        self._versions: list[int] = []
        self._written: list[int] = []
        self._targeted = {id(p) for layer in self.layers for p in layer.parameters}
        self._others = [p for p in model.parameters() if p.requires_grad and id(p) not in self._targeted]
        self._device = self.layers[0].parameters[0].device
        alone = self._group is None and all(p.device == self._device for p in model.parameters())
        graphs = self.config.cuda_graphs and self._device.type == "cuda" and alone
        self._graphs = SolveGraphs(model, self.layers, self._device) if graphs else None
        self._begin(reference, self.config.init, state)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: every target, then every parameter of the model that is not solved."""
        yield from self.targets.values()
        yield from self._others

    @property
    def units(self) -> dict[str, float]:
        """What a target of 1 stands for in the units of the outputs, by layer name; see ``step_scale``."""
        return {layer.name: layer.unit for layer in self.layers}

    @property
    def stale(self) -> bool:
        """Whether something changed since the last solve, or its graph was used."""
        return not self._solved or self._versions != [p._version for p in self.parameters()]

    def solve(self) -> None:
        """Solve all weights from the targets over the reference batch, and write them to the model.

        Keeps the graph from the targets to the weights for one :meth:`pullback`, until which the targets stay as they
        are.

        Raises:
            TargetSpaceError: a layer's inputs or targets hold a NaN or an infinity.
        """
        self._solved = []
        replayed = None if self._graphs is None else self._graphs.solve(self._read(), self._run, self._aliased)
        self._solved = self._run() if replayed is None else replayed
        with torch.no_grad():
            for parameter, value in self._solved:
                parameter.copy_(value)
            if self._group is not None and self.shards is None:
                broadcast([parameter for parameter, _ in self._solved], self._group)  # since replicas drift
        self._versions = [p._version for p in self.parameters()]
        self._written = [parameter._version for parameter, _ in self._solved]

    def overwritten(self) -> list[str]:
        """The modules whose weights were given other values since the last solve, of which the targets know nothing."""
        if not self._solved:
            return []
        pairs = zip(self._solved, self._written, strict=True)
        foreign = {id(p) for (p, value), version in pairs if p._version != version and not torch.equal(p, value)}
        found = [layer.module_name for layer in self.layers if any(id(p) in foreign for p in layer.parameters)]
        return list(dict.fromkeys(found))

    def pullback(self) -> bool:
        """Take the gradients on the weights back to the targets, and clear them from the weights.

        Other parameters that shaped the reference activations (norms, embeddings) receive their share. The gradient
        is exact, because the map from weights' to targets' gradients is linear: gradients accumulated over several
        backward passes are pulled back at once.

        Returns:
            Whether there were any gradients on the weights.

        Raises:
            TargetSpaceError: there has been no solve since the last pull-back.
        """
        if not self._solved:
            raise TargetSpaceError(
                "pullback() was called twice after one solve(). Call solve() after each optimizer step."
            )
        # a value that depends on no target: the redundant bias of a recurrent layer, kept at zero
        solved, self._solved = self._solved, []
        pulled = [p.grad is not None and value.requires_grad for p, value in solved]
        arriving = [p.grad.to(value.dtype) for p, value in compress(solved, pulled) if p.grad is not None]
        self.clear()
        trained = [p for p in self.parameters() if p.requires_grad]  # not those of a toggled-off optimizer
        if not arriving or not trained:
            return False
        if self.shards is not None:
            # every solve adds up what its processes give
            arriving = [gradient / self.shards.ranks for gradient in arriving]
        with full_precision(self._device):
            found = self._gradients(solved, pulled, trained, arriving)
        if self.shards is not None:
            targets = {id(target) for target in self.targets.values()}
            shared = [g for p, g in zip(trained, found, strict=True) if g is not None and id(p) not in targets]
            if shared:
                self.shards.sum(*shared)
        taken: set[int] = set()
        for parameter, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                # as autograd lays it out; a copy too of one that it gives to two parameters
                if gradient.stride() != parameter.stride() or gradient.data_ptr() in taken:
                    gradient = torch.empty_like(parameter).copy_(gradient)
                taken.add(gradient.data_ptr())
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return True

    def _run(self, around: AbstractContextManager[Any] | None = None) -> Solved:
        """The solved parameters and their values, without a CUDA graph; see :meth:`ReferencePass.walk`."""
        solved: Solved = []

        def visit(layer: TargetLayer, x: Any) -> Any:
            values, passed = layer.solve(x, self.targets[layer.name])
            solved.extend(zip(layer.parameters, values, strict=True))
            return passed

        with torch.inference_mode(False), torch.enable_grad(), self._all_trained():
            self._pass.walk(visit, around)
        return solved

    def _aliased(self) -> AbstractContextManager[dict[int, Tensor]]:
        return aliases(self.model, list(self.parameters()), self.targets)

    def _read(self) -> Iterator[Tensor]:
        """All that a solve reads, but for the reference batch."""
        yield from self.targets.values()
        yield from self.model.parameters()
        yield from self.model.buffers()

    def _gradients(
        self, solved: Solved, pulled: Sequence[bool], trained: Sequence[Tensor], arriving: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The gradients on ``trained`` for those ``arriving`` on the solved values that are ``pulled`` back."""
        if self._graphs is not None and self._graphs.replayed:
            return self._graphs.pull(pulled, trained, arriving, self._run)
        values = [value for _, value in compress(solved, pulled)]
        return torch.autograd.grad(values, trained, arriving, allow_unused=True)

    def clear(self) -> None:
        """Clear the gradients on the solved weights, which no optimizer's ``zero_grad`` reaches any more."""
        for layer in self.layers:
            for parameter in layer.parameters:
                parameter.grad = None

    def release(self) -> None:
        """Free the graph of the last solve; the next :meth:`solve` makes a new one."""
        self._solved = []
        if self._graphs is not None:
            self._graphs.forget()

    def project(self) -> None:
        """Replace the targets by what the solved layers achieve, layer by layer, each fed by the one before."""
        with torch.no_grad():
            self._pass.walk(lambda layer, x: project(layer, x, self.targets[layer.name]))
        self.solve()

    def residuals(self) -> dict[str, float]:
        """The relative residual ||A W - T|| / ||T|| of each layer's solve."""
        found: dict[str, float] = {}

        def visit(layer: TargetLayer, x: Any) -> Any:
            values, passed = layer.solve(x, self.targets[layer.name])
            wanted = self.targets[layer.name] * layer.unit
            found[layer.name] = relative_difference(layer.achieved(x, values), wanted, self.shards)
            return passed

        with torch.no_grad():
            self._pass.walk(visit)
        return found

    def substitute(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the targets in the place of the solved weights in ``optimizer``, in place and before its first step.

        A layer's targets take the place of its weight (the first of several); its bias and other weights are taken out.
        Learning rates and other options of the parameter groups stay; so does the list object itself, which LBFGS and
        schedulers hold.

        Raises:
            TargetSpaceError: the optimizer has already made a step.
        """
        substitute(optimizer, self.layers, self.targets, 1 if self.shards is None else self.shards.ranks)

    def follow(self) -> None:
        """Freeze the weights whose targets are frozen, and no others, as Lightning's toggling of an optimizer asks."""
        for layer in self.layers:
            for parameter in layer.parameters:
                parameter.requires_grad_(self.targets[layer.name].requires_grad)

    def gradient_norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """The 2-norm of the parameters' gradients; where processes share the targets, over those of all of them."""
        targets = {id(target) for target in self.targets.values()}
        squares = torch.zeros(2, dtype=next(iter(self.targets.values())).dtype, device=self._device)
        for parameter in parameters:
            if parameter.grad is not None:
                squares[int(id(parameter) in targets)] += parameter.grad.square().sum()
        if self.shards is not None:
            self.shards.sum(squares[1:])
        return squares.sum().sqrt()

    def keeps(self, weights: Mapping[nn.Parameter, Tensor]) -> bool:
        """Whether every layer's weights are, but for rounding, those given by parameter."""

        def moved(layer: TargetLayer) -> float:
            given = _flat([weights[parameter] for parameter in layer.parameters])
            return float((_flat(layer.parameters) - given).norm() / given.norm())

        return not any(moved(layer) > _TOLERANCE for layer in self.layers)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, in tensors and built-in types; where processes share it, the whole, in each."""
        return {
            "targets": {name: self.whole(name, target.detach()) for name, target in self.targets.items()},
            "rows": dict(self._rows),
            "places": {name: list(places) for name, places in self._places.items()},
            "units": self.units,
            **self._pass.batch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the targets of an earlier :meth:`state_dict` of this space; the weights follow with a solve."""
        with torch.no_grad():
            for name, target in self.targets.items():
                target.copy_(self.share(name, state["targets"][name]))
        self._solved = []

    def refresh(self, reference: Reference) -> float:
        """Take another reference batch, and targets that reproduce the present weights on it as far as they can.

        The targets keep their Parameters, so that optimizers go on with them; moments of theirs should start anew.

        Returns:
            The largest change of any of the model's outputs on the new reference batch.
        """
        kept = self.targets
        change = self._begin(reference, "weights", None)
        for name, target in kept.items():
            target.data = self.targets[name].data
            self.targets[name] = target
        self.solve()
        return change

    def whole(self, name: str, share: Tensor) -> Tensor:
        """A layer's targets, or a tensor like them, of all processes out of this process's share."""
        return self._cuts[name].join(share) if name in self._cuts else share

    def share(self, name: str, whole: Tensor) -> Tensor:
        """This process's share of a layer's targets, or of a tensor like them."""
        return self._cuts[name].take(whole) if name in self._cuts else whole

    @contextmanager
    def _all_trained(self) -> Iterator[None]:
        """Build the graph from all that is trained, also from what a toggled-off optimizer has frozen for a while."""
        frozen = [p for p in self.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def _begin(self, reference: Reference, init: Init, state: Mapping[str, Any] | None) -> float:
        """Make or take the targets on a reference batch, and keep this process's share of both.

        Returns:
            With ``init="weights"`` the largest change of any of the model's outputs on the batch, otherwise 0.
        """
        self.shards: Shards | None = None
        self._cuts: dict[str, Cut] = {}
        for layer in self.layers:
            for solver in layer.solvers:
                solver.shared = None
        self.release()
        # Follows the user's seed without drawing from the global generator, so that the order of training data is
        # the same with and without target space.
        seed = torch.tensor((state or {}).get("seed", torch.initial_seed() % 2**63), device=self._device)
        if self._group is not None:
            broadcast([seed], self._group)
        generator = torch.Generator().manual_seed(int(seed))
        batch = ReferenceBatch.of(self.model, reference, self._forward, int(seed))
        self._pass = run = ReferencePass(batch, self.layers).with_fastest_layout()
        before = run.outputs() if init == "weights" and state is None else []
        started = start(run, self.layers, self.config, init, state, generator)
        self._rows = {layer.name: layer.rows.cpu() for layer in self.layers if layer.rows is not None}
        self._places = started.places
        self.targets = started.targets
        if self._group is not None:
            with torch.no_grad():
                broadcast(list(self.targets.values()), self._group)
        self.solve()
        after = run.outputs() if before else []
        change = max((float((new - old).abs().max()) for new, old in zip(after, before, strict=True)), default=0.0)
        if started.deficient:
            layers = ", ".join(f"'{name}' ({rank} of {columns})" for name, rank, columns in started.deficient)
            warnings.warn(
                f"init='weights': the reference rows do not span the inputs of {layers}, so the nearest weights were "
                f"taken there. The largest change of any output on the reference batch is {change:.3g}. A larger "
                f"reference batch, or more reference.rows, keeps the function exactly.",
                stacklevel=3,
            )
        if self._group is not None and self.config.reference.shard:
            self.shards = Shards(self._group, run.batch.samples)
            self._pass = ReferencePass(run.batch.share(self.shards), self.layers)
            self.targets, self._cuts = keep_share(self._pass, self.layers, started, self.shards)
            self.solve()
        return change


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
