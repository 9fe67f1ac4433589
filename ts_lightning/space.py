"""TargetSpace: the targets of a model, how its weights are solved from them, and how gradients come back.

The model stays as it is: its layers keep their Parameters, which hold the solved values at every moment outside an
optimizer step. One step is ``solve`` (targets to weights, over the reference batch), the ordinary forward and backward
of the loss, and ``pullback`` (the weights' gradients to the targets). Source: Fairbank et al. (2022), algorithm 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers import TargetLayer, Visit
from ts_lightning.reference_pass import Reference, reference_mode, replaced, runner
from ts_lightning.selection import select_layers

_STEP_SCALE = 50.0  # of a single layer; docs/defaults.md
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
        reference: the reference batch: a tensor ``x`` for ``model(x)``, a tuple for ``model(*tuple)``, or a function
            without arguments that runs the model on it.
        config: the settings; ``None`` for the defaults.
        targets: targets to start from, by layer name, as an earlier ``space.targets``; ``None`` starts anew.

    Raises:
        TargetSpaceError: the model cannot be trained in target space as asked; says why and what to do.

    Attributes:
        targets: the trainable targets by layer name, each in the shape of the layer's output on the reference batch,
            or (rows, out) where rows are sampled; in units of ``step_scale``. Those of a recurrent module are named
            after its layers, "rnn.l0", "rnn.l0_reverse", ..., and hold all gates at every step.
        step_scale: the unit of the targets, ``config.step_scale`` or what it comes to where that is "auto".
    """

    def __init__(
        self,
        model: nn.Module,
        reference: Reference,
        config: TargetSpaceConfig | None = None,
        *,
        targets: dict[str, Tensor] | None = None,
    ) -> None:
        self.config = TargetSpaceConfig() if config is None else config
        self.model = model
        self.targets: dict[str, nn.Parameter] = {}
        self._run_reference = runner(model, reference)
        self.layers = select_layers(model, self.config)
        scale = self.config.step_scale
        self.step_scale = _step_scale(self.layers) if scale == "auto" else scale
        for layer in self.layers:
            layer.unit = self.step_scale
        self._solved: list[tuple[nn.Parameter, Tensor]] = []
        self._visited: dict[str, TargetLayer] = {}
        self._versions: list[int] = []
        self._targeted = {id(p) for layer in self.layers for p in layer.parameters}
        self._others = [p for p in model.parameters() if p.requires_grad and id(p) not in self._targeted]
        # Follows the user's seed without drawing from the global generator, so that the order of training data is
        # the same with and without target space.
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        self._bind(generator, targets)
        self.solve()

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
        with torch.enable_grad():
            self._walk(self._visit_solve)
        with torch.no_grad():
            for parameter, value in self._solved:
                parameter.copy_(value)
        self._versions = [p._version for p in self.parameters()]

    def pullback(self) -> None:
        """Take the gradients on the weights back to the targets, and clear them from the weights.

        Other parameters that shaped the reference activations (norms, embeddings) receive their share. The gradient
        is exact, because the map from weights' to targets' gradients is linear: gradients accumulated over several
        backward passes are pulled back at once.

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
        if pairs:
            values, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(values, gradients)

    def current(self) -> bool:
        """Whether the model's weights are, but for rounding, what the targets are solved to; changes nothing."""
        solved, self._solved = self._solved, []
        try:
            with torch.no_grad():
                self._walk(self._visit_solve)
                return all(torch.allclose(p, value, rtol=1e-3, atol=1e-5) for p, value in self._solved)
        except TargetSpaceError:
            return False
        finally:
            self._solved = solved

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
            found[layer.name] = float((layer.achieved(x, values) - wanted).norm() / wanted.norm())
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
        replacement = {id(layer.parameters[0]): self.targets[layer.name] for layer in self.layers}
        for group in optimizer.param_groups:
            kept = [p for p in group["params"] if id(p) in replacement or id(p) not in self._targeted]
            group["params"][:] = [replacement.get(id(p), p) for p in kept]

    def _walk(self, visit: Visit) -> None:
        """Run the reference forward with ``visit`` in the place of each chosen layer's forward."""
        self._visited = {}
        with reference_mode(self.model), replaced(self.layers, lambda layer, x: self._once(layer, x, visit)):
            self._run_reference()
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

    @torch.no_grad()
    def _bind(self, generator: torch.Generator, given: dict[str, Tensor] | None) -> None:
        """The first reference forward: fix each layer's rows and make its initial targets."""
        changes: list[tuple[str, int, int]] = []
        rows = self.config.reference.rows
        if self.config.method == "ocu" and rows == "auto":
            rows = "all"
        before = self._outputs() if self.config.init == "weights" and given is None else None

        def visit(layer: TargetLayer, x: Any) -> Any:
            if x.numel() == 0:
                raise TargetSpaceError(
                    f"layer '{layer.name}' received an empty input, {tuple(x.shape)}, from the reference batch. "
                    f"Expected at least one sample: check reference_batch() and the training data."
                )
            shape = layer.bind(x, rows, generator)
            if given is not None:
                start = _checked(given, layer.name, shape)
            elif self.config.init == "weights":
                start, rank, columns = layer.reproduce(x, layer.parameters, 0.0)
                if rank < columns:
                    changes.append((layer.name, rank, columns))
            elif self.config.init == "normalised":
                start = layer.start(x, self.config.init_std or layer.normalised_std, generator)
            else:
                std = self.config.init_std or layer.projected_std
                start = torch.empty(shape)
                nn.init.trunc_normal_(start, std=std, a=-2 * std, b=2 * std, generator=generator)
            start = start if given is not None else start / self.step_scale
            like = layer.parameters[0]
            self.targets[layer.name] = nn.Parameter(start.to(device=like.device, dtype=like.dtype, copy=True))
            if given is None and self.config.init == "projected":
                return self._visit_project(layer, x)
            return layer.solve(x, self.targets[layer.name])[1]

        self._walk(visit)
        if given is None and self.config.init == "normalised":
            self.targets[list(self._visited)[-1]].mul_(_READOUT)
        ordered = {layer.name: self.targets[layer.name] for layer in self.layers}
        self.targets = ordered
        if changes and before is not None:
            self.solve()
            largest = max(float((new - old).abs().max()) for new, old in zip(self._outputs(), before, strict=True))
            layers = ", ".join(f"'{name}' ({rank} of {columns})" for name, rank, columns in changes)
            warnings.warn(
                f"init='weights': the reference rows do not span the inputs of {layers}, so the nearest weights were "
                f"taken there. The largest change of any output on the reference batch is {largest:.3g}. A larger "
                f"reference batch, or more reference.rows, keeps the function exactly.",
                stacklevel=4,
            )

    def _outputs(self) -> list[Tensor]:
        """The model's output tensors on the reference batch, with its weights as they are."""
        with torch.no_grad(), reference_mode(self.model):
            return [t.clone() for t in _tensors(self._run_reference())]


def _step_scale(layers: Sequence[TargetLayer]) -> float:
    """The unit of the targets where the config leaves it open: that of the most sensitive layer for all."""
    return min(layer.step for layer in layers) * _STEP_SCALE / float(len(layers) ** 0.25)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _checked(given: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in given:
        raise TargetSpaceError(f"targets: found none for layer '{name}'; given are {', '.join(given) or 'none'}.")
    if given[name].shape != shape:
        raise TargetSpaceError(
            f"targets: layer '{name}' has {tuple(given[name].shape)}; expected {tuple(shape)} on this reference batch."
        )
    return given[name]
