"""TargetSpace: the targets of a model, how its weights are solved from them, and how gradients come back.

The model stays as it is: its layers keep their Parameters, which hold the solved values at every moment outside an
optimizer step. One step is ``solve`` (targets to weights, over the reference batch), the ordinary forward and backward
of the loss, and ``pullback`` (the weights' gradients to the targets). Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ts_lightning.batches import channels_last, is_plain, joined, mapped, own, part, plain, tensors_in
from ts_lightning.config import Init, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers import TargetLayer, Visit
from ts_lightning.precision import full_precision
from ts_lightning.reference_pass import Reference, reference_mode, replaced, runner
from ts_lightning.selection import select_layers
from ts_lightning.shards import Cut, Shards, broadcast

_STEP_SCALE = 50.0  # of a single layer; docs/defaults.md
_TOLERANCE = 0.02  # of a solution's norm, up to which weights are those that were solved
_SAME = 1e-4  # of the outputs' norm, up to which two ways of solving are one
#: optimizers whose step for a number depends on others than its own gradients
_NOT_ELEMENTWISE = ("LBFGS", "Muon", "Adafactor")
_READOUT = 0.1  # of init_std: the last layer starts near zero, so that no class is preferred; docs/defaults.md


class TargetSpace:
    """The targets of a model's layers, and the way between them and the weights.

    A training loop::

        space = TargetSpace(model, x_train[:100])
        optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
        for x, y in batches:
            loss = loss_function(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            space.pullback()
            optimizer.step()
            space.solve()

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
            or (rows, out) where rows are sampled; in units of ``step_scale``, and in float32 where the weights are of
            half precision. Those of a recurrent module are named after its layers, "rnn.l0", "rnn.l0_reverse", ..., and
            hold all gates at every step. Where processes share the reference batch, those of this process's samples.
        step_scale: the unit of the targets, ``config.step_scale`` or what it comes to where that is "auto".
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
        scale = self.config.step_scale
        self.step_scale = _step_scale(self.layers) if scale == "auto" else scale
        for layer in self.layers:
            layer.unit = self.step_scale
        self._forward = forward
        self._group = group if group is not None and dist.get_world_size(group) > 1 else None
        self._solved: list[tuple[nn.Parameter, Tensor]] = []
        self._visited: dict[str, TargetLayer] = {}
        self._versions: list[int] = []
        self._written: list[int] = []
        self._targeted = {id(p) for layer in self.layers for p in layer.parameters}
        self._others = [p for p in model.parameters() if p.requires_grad and id(p) not in self._targeted]
        self._device = self.layers[0].parameters[0].device
        self._begin(reference, self.config.init, state)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: every target, then every parameter of the model that is not solved."""
        yield from self.targets.values()
        yield from self._others

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
        with torch.enable_grad(), self._all_trained():
            self._walk(self._visit_solve)
        with torch.no_grad():
            for parameter, value in self._solved:
                parameter.copy_(value)
            if self._group is not None and self.shards is None:
                broadcast([parameter for parameter, _ in self._solved], self._group)  # since replicas drift
        self._versions = [p._version for p in self.parameters()]
        self._written = [parameter._version for parameter, _ in self._solved]

    def overwritten(self) -> list[str]:
        """The layers whose weights were given other values since the last solve, of which the targets know nothing."""
        if not self._solved:
            return []
        pairs = zip(self._solved, self._written, strict=True)
        foreign = {id(p) for (p, value), version in pairs if p._version != version and not torch.equal(p, value)}
        return [layer.name for layer in self.layers if any(id(p) in foreign for p in layer.parameters)]

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
        pairs = [(value, p.grad) for p, value in self._solved if p.grad is not None and value.requires_grad]
        self._solved = []
        self.clear()
        trained = [p for p in self.parameters() if p.requires_grad]  # not those of a toggled-off optimizer
        if not pairs or not trained:
            return False
        values = [value for value, _ in pairs]
        arriving = [gradient.to(value.dtype) for value, gradient in pairs]
        if self.shards is not None:
            # every solve adds up what its processes give
            arriving = [gradient / self.shards.ranks for gradient in arriving]
        with full_precision(self._device):
            found = torch.autograd.grad(values, trained, arriving, allow_unused=True)
        if self.shards is not None:
            targets = {id(target) for target in self.targets.values()}
            shared = [g for p, g in zip(trained, found, strict=True) if g is not None and id(p) not in targets]
            if shared:
                self.shards.sum(*shared)
        for parameter, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                if gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)  # as autograd lays it out
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return True

    def clear(self) -> None:
        """Clear the gradients on the solved weights, which no optimizer's ``zero_grad`` reaches any more."""
        for layer in self.layers:
            for parameter in layer.parameters:
                parameter.grad = None

    def release(self) -> None:
        """Free the graph of the last solve; the next :meth:`solve` makes a new one."""
        self._solved = []

    def project(self) -> None:
        """Replace the targets by what the solved layers achieve, layer by layer, each fed by the one before."""
        with torch.no_grad():
            self._walk(self._visit_project)
        self.solve()

    def residuals(self) -> dict[str, float]:
        """The relative residual ||A W - T|| / ||T|| of each layer's solve."""
        found: dict[str, float] = {}

        def visit(layer: TargetLayer, x: Any) -> Any:
            values, passed = layer.solve(x, self.targets[layer.name])
            wanted = self.targets[layer.name] * self.step_scale
            squares = torch.stack([(layer.achieved(x, values) - wanted).square().sum(), wanted.square().sum()])
            if self.shards is not None:
                self.shards.sum(squares)
            found[layer.name] = float((squares[0] / squares[1]).sqrt())
            return passed

        with torch.no_grad():
            self._walk(visit)
        return found

    def substitute(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the targets in the place of the solved weights in ``optimizer``, in place and before its first step.

        A layer's targets take the place of its weight (the first of several); its bias and other weights are taken out.
        Learning rates and other options of the parameter groups stay; so does the list object itself, which LBFGS and
        schedulers hold.

        Raises:
            TargetSpaceError: the optimizer has already made a step.
        """
        if any(id(p) in self._targeted for p in optimizer.state):
            raise TargetSpaceError(
                f"{type(optimizer).__name__} already holds state for weights that targets should replace. Make the "
                f"substitution before the first step."
            )
        if self.shards is not None and type(optimizer).__name__ in _NOT_ELEMENTWISE:
            raise TargetSpaceError(
                f"{type(optimizer).__name__} looks at all targets at once, and each of {self.shards.ranks} processes "
                f"has its own. Use reference.shard=False, or an optimizer that treats every number for itself, as Adam."
            )
        if type(optimizer).__name__ in _NOT_ELEMENTWISE:
            for target in self.targets.values():
                target.data = target.data.contiguous()  # LBFGS views gradients as vectors
        replacement = {id(layer.parameters[0]): self.targets[layer.name] for layer in self.layers}
        solved: list[nn.Parameter] = []
        for group in optimizer.param_groups:
            solved += [p for p in group["params"] if id(p) in self._targeted]
            kept = [p for p in group["params"] if id(p) in replacement or id(p) not in self._targeted]
            group["params"][:] = [replacement.get(id(p), p) for p in kept]
        # so that it clears what it would have cleared
        optimizer.zero_grad = partial(_zero_grad, optimizer.zero_grad, solved)  # type: ignore[method-assign]

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

    def weights(self) -> dict[str, Tensor]:
        """A copy of each layer's present weights and biases, as one vector."""
        return {layer.name: _flat(layer.parameters).clone() for layer in self.layers}

    def changed(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The layers whose present weights differ by more than rounding from those of an earlier :meth:`weights`."""
        now = self.weights()
        return [n for n, w in weights.items() if (now[n] - w).norm() > _TOLERANCE * w.norm()]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, in tensors and built-in types; where processes share it, the whole, in each."""
        return {
            "targets": {name: self.whole(name, target.detach()) for name, target in self.targets.items()},
            "rows": dict(self._rows),
            "step_scale": self.step_scale,
            "reference": self._whole_reference(),
            "plain": is_plain(self._reference),
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
        run = self._runner(reference)
        with torch.no_grad():
            before = self._outputs(run)
        self._begin(reference, "weights", None)
        with torch.no_grad():
            after = self._outputs(run)
        for name, target in kept.items():
            target.data = self.targets[name].data
            self.targets[name] = target
        self.solve()
        return max(float((new - old).abs().max()) for new, old in zip(after, before, strict=True))

    def whole(self, name: str, share: Tensor) -> Tensor:
        """A layer's targets, or a tensor like them, of all processes out of this process's share."""
        return self._cuts[name].join(share) if name in self._cuts else share

    def share(self, name: str, whole: Tensor) -> Tensor:
        """This process's share of a layer's targets, or of a tensor like them."""
        return self._cuts[name].take(whole) if name in self._cuts else whole

    def _whole_reference(self) -> Any:
        """The reference batch in built-in types; None for a function."""
        if callable(self._reference):
            return None
        if self.shards is None:
            return plain(self._reference)
        parts = self.shards.objects(mapped(plain(self._reference), lambda tensor: tensor.cpu()))
        return joined(parts)

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

    def _walk(self, visit: Visit) -> None:
        """Run the reference forward with ``visit`` in the place of each chosen layer's forward."""
        self._visited = {}
        with (
            full_precision(self._device),
            reference_mode(self.model, self.shards),
            replaced(self.layers, lambda layer, x: self._once(layer, x, visit)),
        ):
            self._run()
        missing = dict.fromkeys(layer.module_name for layer in self.layers if layer.name not in self._visited)
        if missing:
            raise TargetSpaceError(
                f"The reference forward did not reach {', '.join(missing)}. Every chosen layer must be called in it: "
                f"override reference_forward, or add the name to exclude."
            )

    def _once(self, layer: TargetLayer, x: Any, visit: Visit) -> Any:
        if layer.name in self._visited:
            raise TargetSpaceError(
                f"layer '{layer.module_name}' is used twice in one forward; its weights would have two solutions. Give "
                f"each use a layer of its own, or add '{layer.module_name}' to exclude."
            )
        self._visited[layer.name] = layer
        return visit(layer, x)

    def _visit_solve(self, layer: TargetLayer, x: Any) -> Any:
        values, passed = layer.solve(x, self.targets[layer.name])
        self._solved += zip(layer.parameters, values, strict=True)
        return passed

    def _visit_project(self, layer: TargetLayer, x: Any) -> Any:
        values, _ = layer.solve(x, self.targets[layer.name])
        self.targets[layer.name].copy_(layer.achieved(x, values)).div_(self.step_scale)
        return layer.solve(x, self.targets[layer.name])[1]

    def _runner(self, reference: Reference) -> Callable[[], Any]:
        return runner(self.model, reference, self._forward)

    def _begin(self, reference: Reference, init: Init, state: Mapping[str, Any] | None) -> None:
        """Make or take the targets on a reference batch, and keep this process's share of both."""
        self.shards: Shards | None = None
        self._cuts: dict[str, Cut] = {}
        self._rows: dict[str, Tensor] = {}
        self._reference: Any = reference if callable(reference) else mapped(reference, own)
        self._run = self._runner(self._reference)
        self._hasten()
        for layer in self.layers:
            layer.solver.shared = None
        # Follows the user's seed without drawing from the global generator, so that the order of training data is
        # the same with and without target space.
        seed = torch.tensor(torch.initial_seed() % 2**63, device=self._device)
        if self._group is not None:
            broadcast([seed], self._group)
        places = self._bind(torch.Generator().manual_seed(int(seed)), init, state)
        if self._group is not None:
            with torch.no_grad():
                broadcast(list(self.targets.values()), self._group)
        self.solve()
        if self._group is not None and self.config.reference.shard:
            self._divide(places)

    def _hasten(self) -> None:
        """Take the reference batch in the layout that is fastest, if the model can be run on it."""
        faster = self._reference if callable(self._reference) else mapped(self._reference, channels_last)
        if all(a is b for a, b in zip(tensors_in(faster), tensors_in(self._reference), strict=True)):
            return
        run = self._runner(faster)
        try:
            self._outputs(run)
        except RuntimeError:  # as x.view(len(x), -1) behind a convolution raises
            return
        self._reference, self._run = faster, run

    @torch.no_grad()
    def _bind(self, generator: torch.Generator, init: Init, state: Mapping[str, Any] | None) -> dict[str, torch.Size]:
        """The first reference forward: fix each layer's rows and make its initial targets; returns its places."""
        changes: list[tuple[str, int, int]] = []
        places: dict[str, torch.Size] = {}
        rows = self.config.reference.rows
        if self.config.method == "ocu" and rows == "auto":
            rows = "all"
        before = self._outputs(self._run) if init == "weights" and state is None else None
        _check_names(self.layers, state)
        self.targets = {}

        def visit(layer: TargetLayer, x: Any) -> Any:
            if x.numel() == 0:
                raise TargetSpaceError(
                    f"layer '{layer.name}' received an empty input, {tuple(x.shape)}, from the reference batch. "
                    f"Expected at least one sample: check reference_batch() and the training data."
                )
            shape = layer.bind(x, rows, generator)
            places[layer.name] = layer.places(x)
            if state is not None:
                start = _restored(layer, x, shape, state) * (float(state["step_scale"]) / self.step_scale)
            elif init == "weights":
                start, rank, columns = layer.reproduce(x, layer.parameters, 0.0)
                if rank < columns:
                    changes.append((layer.name, rank, columns))
            elif init == "normalised":
                start = layer.start(x, self.config.init_std or layer.normalised_std, generator)
            else:
                std = self.config.init_std or layer.projected_std
                start = torch.empty(shape)
                nn.init.trunc_normal_(start, std=std, a=-2 * std, b=2 * std, generator=generator)
            start = start if state is not None else start / self.step_scale
            like = layer.parameters[0]
            dtype = torch.promote_types(like.dtype, torch.float32)
            self.targets[layer.name] = nn.Parameter(start.to(device=like.device, dtype=dtype, copy=True))
            if layer.rows is not None:
                self._rows[layer.name] = layer.rows.cpu()
            if state is None and init == "projected":
                return self._visit_project(layer, x)
            return layer.solve(x, self.targets[layer.name])[1]

        self._walk(visit)
        if state is None and init == "normalised":
            self.targets[list(self._visited)[-1]].mul_(_READOUT)
        self.targets = {layer.name: self.targets[layer.name] for layer in self.layers}
        if changes and before is not None:
            self.solve()
            after = self._outputs(self._run)
            largest = max(float((new - old).abs().max()) for new, old in zip(after, before, strict=True))
            layers = ", ".join(f"'{name}' ({rank} of {columns})" for name, rank, columns in changes)
            warnings.warn(
                f"init='weights': the reference rows do not span the inputs of {layers}, so the nearest weights were "
                f"taken there. The largest change of any output on the reference batch is {largest:.3g}. A larger "
                f"reference batch, or more reference.rows, keeps the function exactly.",
                stacklevel=5,
            )
        return places

    def _divide(self, places: Mapping[str, torch.Size]) -> None:
        """Keep this process's samples, rows and targets, on which all processes together solve the same weights."""
        samples = _samples(self._reference)
        assert self._group is not None
        shards = Shards(self._group, samples)
        self._solved = []
        self._reference = part(self._reference, *shards.bounds(shards.rank))
        self._run = self._runner(self._reference)
        self.shards = shards

        def visit(layer: TargetLayer, x: Any) -> Any:
            self._cuts[layer.name] = cut = layer.narrow(x, places[layer.name], shards)
            self.targets[layer.name] = nn.Parameter(cut.take(self.targets[layer.name].detach()).contiguous())
            values, passed = layer.solve(x, self.targets[layer.name])
            expected = layer.achieved(x, layer.parameters)  # those that the whole batch gave
            squares = torch.stack([(layer.achieved(x, values) - expected).square().sum(), expected.square().sum()])
            shards.sum(squares)
            if squares[0] > max(_SAME, 2 * torch.finfo(layer.parameters[0].dtype).eps) ** 2 * squares[1]:
                raise TargetSpaceError(
                    f"layer '{layer.name}' is solved differently from {shards.ranks} shares of the reference batch "
                    f"than from the whole: something before it mixes samples, or its rows do not follow their order. "
                    f"Use reference.shard=False, or add '{layer.name}' to exclude."
                )
            return passed

        with torch.no_grad():
            self._walk(visit)
        self.solve()

    def _outputs(self, run: Callable[[], Any]) -> list[Tensor]:
        """The model's output tensors on a reference batch, with its weights as they are."""
        with torch.no_grad(), full_precision(self._device), reference_mode(self.model, self.shards):
            return [t.clone() for t in tensors_in(run()) if t.is_floating_point()]


def _step_scale(layers: Sequence[TargetLayer]) -> float:
    """The unit of the targets where the config leaves it open: that of the most sensitive layer for all."""
    return min(layer.step for layer in layers) * _STEP_SCALE / float(len(layers) ** 0.25)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def _zero_grad(original: Callable[..., None], solved: Sequence[nn.Parameter], set_to_none: bool = True) -> None:
    original(set_to_none)
    for parameter in solved:
        parameter.grad = None


def _samples(reference: Any) -> int:
    """The number of samples in a reference batch that is to be shared.

    Raises:
        TargetSpaceError: it cannot be told which part of it belongs to which sample.
    """
    lengths = None if callable(reference) else {t.shape[0] for t in tensors_in(reference) if t.dim() > 0}
    if lengths is None or len(lengths) != 1:
        found = "a function" if lengths is None else f"tensors of lengths {sorted(lengths)}"
        raise TargetSpaceError(
            f"The reference batch cannot be shared between processes: found {found}; expected tensors whose first "
            f"dimension is the samples. Use reference.shard=False."
        )
    return lengths.pop()


def _check_names(layers: Sequence[TargetLayer], state: Mapping[str, Any] | None) -> None:
    if state is None:
        return
    wanted, given = {layer.name for layer in layers}, set(state["targets"])
    if wanted != given:
        parts = [f"without targets: {', '.join(sorted(wanted - given))}"] * bool(wanted - given)
        parts += [f"with targets but not chosen: {', '.join(sorted(given - wanted))}"] * bool(given - wanted)
        raise TargetSpaceError(
            f"The given targets are of other layers than are solved here: {'; '.join(parts)}. Choose the same layers, "
            f"or start from the weights alone."
        )


def _restored(layer: TargetLayer, x: Any, shape: torch.Size, state: Mapping[str, Any]) -> Tensor:
    """The layer's targets out of a state, on the rows that they were on."""
    target: Tensor = state["targets"][layer.name]
    if target.shape != shape:
        raise TargetSpaceError(
            f"layer '{layer.name}' has given targets of shape {tuple(target.shape)}; expected {tuple(shape)} on this "
            f"reference batch. Use the same reference batch, reference.rows and layer sizes, or start from the weights "
            f"alone."
        )
    if layer.rows is not None:
        layer.rows = state["rows"][layer.name].to(layer.rows.device)
        layer.fix(x)
    return target
