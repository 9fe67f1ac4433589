"""nn.MultiheadAttention: its projections into queries, keys and values, and the one behind its heads, as dense layers.

The module ``name`` consists of ``name.in_proj`` and ``name.out_proj``. Neighbours among query, key and value that are
one tensor have one system: all three in self-attention, keys and values where one sequence attends to another. With
``kdim`` or ``vdim`` each of the three has a weight and a system of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.layers.attention.heads import attend
from ts_lightning.layers.attention.sources import Sources
from ts_lightning.layers.base import TargetLayer, Visit
from ts_lightning.layers.binding import Binding, Size, StepUnit
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.layers.noise import noisy_columns
from ts_lightning.ridge.processes import Cut, Shards

_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, kw_only=True)
class AttentionBinding(Binding):
    """What is fixed about an attention's projections.

    Attributes:
        projections: how many of the three each input has.
        parts: of the dense layer that each input is.
    """

    projections: tuple[int, ...]
    parts: tuple[Binding, ...]


class InProjection(TargetLayer):
    """The projections into queries, keys and values.

    Targets are (..., 3 embed) for an input (..., embed) of self-attention, or (rows, 3 embed) where rows are sampled.
    With several inputs they are (n, embed), one input's after the other's, each row with all of its projections. Every
    input is a dense layer of its own, with a share of the weights.
    """

    systems = 3

    def __init__(self, name: str, module: nn.MultiheadAttention, config: TargetSpaceConfig) -> None:
        super().__init__(f"{name}.in_proj" if name else "in_proj", module, config, module.embed_dim)
        self.module_name = name
        self.separate = not module._qkv_same_embed_dim
        names = _SEPARATE if self.separate else ("in_proj_weight",)
        self.parameters = [p for p in (getattr(module, n) for n in (*names, "in_proj_bias")) if p is not None]
        self._parts: list[LinearTargets] = []

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether all projections have weights and biases of their own, and nothing is added to what they give."""
        assert isinstance(module, nn.MultiheadAttention)
        out = module.out_proj
        names = ("in_proj_weight",) if module._qkv_same_embed_dim else _SEPARATE
        own = all(module._parameters.get(name) is not None for name in names)
        biases = module._parameters.get("in_proj_bias"), out._parameters.get("bias")
        own = own and biases[0] is module.in_proj_bias and biases[1] is out.bias
        plain = out._parameters.get("weight") is not None and module.bias_k is None
        return own and plain and not module.add_zero_attn

    @classmethod
    def inner_modules(cls, module: nn.Module) -> Sequence[nn.Module]:
        """The projection behind the heads, a layer of the attention."""
        assert isinstance(module, nn.MultiheadAttention)
        return [module.out_proj]

    @classmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> list[TargetLayer]:
        """The two projections."""
        assert isinstance(module, nn.MultiheadAttention)
        outer = f"{name}.out_proj" if name else "out_proj"
        out = LinearTargets(outer, module, config, module.out_proj.weight, module.out_proj.bias)
        out.module_name = name
        return [cls(name, module, config), out]

    @staticmethod
    def forward(
        layers: Sequence[TargetLayer],
        visit: Visit,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """nn.MultiheadAttention's forward without its dropout; takes and returns what the module does."""
        module: Any = layers[0].module
        projections = visit(layers[0], Sources(query, key, value, module._qkv_same_embed_dim))
        attended, weights = attend(module, projections, attn_mask, key_padding_mask, is_causal, need_weights)
        if len(layers) > 1:
            output = visit(layers[1], attended)
        else:  # as the module does, without a call of the projection
            output = functional.linear(attended, module.out_proj.weight, module.out_proj.bias)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if query.dim() == 2 else weights
        return output, weights

    def places(self, x: Sources) -> torch.Size:
        """The leading dimensions of all inputs, one's after the other's."""
        return x.shape[:-1]

    def bind(self, x: Sources, rows: Rows | Tensor, unit: StepUnit, generator: torch.Generator) -> AttentionBinding:
        """Fix each input's rows as nn.Linear does, with the largest of their units for all of them.

        Given rows are numbered through all inputs.
        """
        parts = []
        for tensor, start, layer in zip(x.tensors, x.starts, self._dense(x.projections), strict=True):
            own: Rows | Tensor = rows
            if isinstance(rows, Tensor):
                total = tensor.shape[:-1].numel()
                inside = rows[(start <= rows) & (rows < start + total)] - start
                own = "all" if len(inside) == total else inside
            parts.append(layer.bind(tensor, own, unit, generator))
        largest = max(part.unit for part in parts)
        parts = [replace(part, unit=largest) for part in parts]
        return AttentionBinding(
            places=self.places(x),
            rows=_numbered(x, parts),
            shape=self._shape(parts),
            ridge=parts[0].ridge,
            unit=largest,
            projections=tuple(x.projections),
            parts=tuple(parts),
        )

    def adopt(self, binding: Binding) -> None:
        """Solve every input as its part of ``binding`` says from here on."""
        super().adopt(binding)
        assert isinstance(binding, AttentionBinding)
        self._parts = self._dense(binding.projections)
        for layer, part in zip(self._parts, binding.parts, strict=True):
            layer.adopt(part)
        if self.anchor is not None:
            self.anchor_at(self.anchor)

    def anchor_at(self, values: Sequence[Tensor] | None) -> None:
        """Solve every input around its share of given weights."""
        super().anchor_at(values)
        assert isinstance(self.binding, AttentionBinding)
        shares = None if values is None else self._shares(self.binding.projections, values)
        for index, layer in enumerate(self._parts):
            layer.anchor_at(None if shares is None else shares[index])

    def around(self, x: Sources) -> Tensor:
        """A W0 of every part."""
        return self._all([part.around(tensor) for part, tensor in zip(self._parts, x.tensors, strict=True)])

    def sizes(self) -> list[Size]:
        """One system for each input."""
        return [size for part in self._parts for size in part.sizes()]

    def features(self, x: Sources) -> list[Tensor]:
        """The inputs, those that are one once."""
        return list(x.tensors)

    def shard(self, x: Sources, shards: Shards) -> tuple[AttentionBinding, Cut]:
        """The binding to this process's share of every input's rows."""
        binding = self.binding
        assert isinstance(binding, AttentionBinding)
        parts, cuts = zip(
            *(layer.shard(tensor, shards) for layer, tensor in zip(self._parts, x.tensors, strict=True)), strict=True
        )
        shape = self._shape(parts)
        mine = replace(binding, places=self.places(x), rows=_numbered(x, parts), shape=shape, parts=parts)
        if len(cuts) == 1:
            return mine, cuts[0]
        held: list[list[Tensor]] = [[] for _ in range(shards.ranks)]
        start = 0
        for cut, part in zip(cuts, binding.parts, strict=True):
            # of the whole targets' rows of one projection
            size = torch.Size([*part.shape[:-1], part.shape[-1] // self.width])
            at = start + torch.arange(size.numel()).view(size)
            for rank, positions in enumerate(cut.positions):
                held[rank].append(at.index_select(cut.dim, positions).flatten())
            start += at.numel()
        return mine, Cut(shards, 0, [torch.cat(positions) for positions in held])

    def _dense(self, projections: Sequence[int]) -> list[LinearTargets]:
        """Every input's dense layer, with its share of the weights."""
        layers = []
        shares = self._shares(projections, [parameter.detach() for parameter in self.parameters])
        for share, solver in zip(shares, self.solvers, strict=False):
            layer = LinearTargets(self.name, self.module, self.config, *share)
            layer.module_name, layer.solver, layer.uses = self.module_name, solver, self.uses
            layers.append(layer)
        return layers

    def _shape(self, parts: Sequence[Binding]) -> torch.Size:
        """The targets' shape."""
        if len(parts) == 1:
            return parts[0].shape
        return torch.Size([sum(part.shape.numel() for part in parts) // self.width, self.width])

    def _each(self, targets: Tensor) -> Sequence[Tensor]:
        """Every part's targets."""
        if len(self._parts) == 1:
            return [targets]
        shapes = [part.binding.shape for part in self._parts]
        blocks = torch.split(targets, [shape.numel() // self.width for shape in shapes])
        return [block.view(shape) for block, shape in zip(blocks, shapes, strict=True)]

    def _all(self, targets: Sequence[Tensor]) -> Tensor:
        """All parts' targets in one."""
        if len(targets) == 1:
            return targets[0]
        return torch.cat([block.reshape(-1, self.width) for block in targets])

    def _shares(self, projections: Sequence[int], values: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Every part's share of values of the parameters."""
        sizes = [count * self.width for count in projections]
        if self.separate:
            biases = [torch.split(bias, sizes) for bias in values[3:]]
            return list(zip(values[:3], *biases, strict=True))
        return list(zip(*(torch.split(value, sizes) for value in values), strict=True))

    def _joined(self, values: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Values of the parameters for every part's share."""
        if self.separate:
            weights, *biases = zip(*values, strict=True)
            return [*weights, *map(torch.cat, biases)]
        return [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*values, strict=True)]

    def expect_noise(self, x: Sources, noise_of: Callable[[Tensor], float]) -> None:
        """Each input's own."""
        bias = self.parameters[-1].dim() == 1
        for solver, tensor in zip(self.solvers, x.tensors, strict=False):
            solver.noise = noisy_columns(noise_of(tensor), tensor.shape[-1], bias, self.parameters[0])

    def solve(self, x: Sources, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and bias (3 embed,); queries, keys and values (..., embed) are passed on."""
        values: list[list[Tensor]] = []
        passed: list[Tensor] = []
        for part, tensor, count, t in zip(self._parts, x.tensors, x.projections, self._each(targets), strict=True):
            solved, z = part.solve(tensor, t)
            values.append(solved)
            passed += z.chunk(count, -1)
        return self._joined(values), passed

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """T of each part."""
        return [t for part, own in zip(self._parts, self._each(targets), strict=True) for t in part.kept_targets(own)]

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias for W of each part."""
        return self._joined([part.kept_values([own]) for part, own in zip(self._parts, w, strict=True)])

    def produce(self, x: Sources, values: Sequence[Tensor]) -> list[Tensor]:
        """Queries, keys and values, of inputs that may be spread otherwise than those that were bound."""
        passed: list[Tensor] = []
        for tensor, count, own in zip(x.tensors, x.projections, self._shares(x.projections, values), strict=True):
            own = tuple(value.to(tensor.dtype) for value in own)
            passed += functional.linear(tensor, *own).chunk(count, -1)
        return passed

    def achieved(self, x: Sources, values: Sequence[Tensor]) -> Tensor:
        """The projections at the solved rows."""
        mine = zip(self._parts, x.tensors, self._shares(x.projections, values), strict=True)
        return self._all([part.achieved(tensor, own) for part, tensor, own in mine])

    def reproduce(self, x: Sources, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets for weights and bias; rank and columns of the part that lacks most."""
        mine = zip(self._parts, x.tensors, self._shares(x.projections, values), strict=True)
        targets, ranks, columns = zip(
            *(part.reproduce(tensor, own, damping) for part, tensor, own in mine), strict=True
        )
        rank, d = min(zip(ranks, columns, strict=True), key=lambda pair: pair[0] - pair[1])
        return self._all(targets), rank, d

    def start(self, x: Sources, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets: nn.Linear's."""
        mine = zip(self._parts, x.tensors, strict=True)
        return self._all([part.start(tensor, std, generator) for part, tensor in mine])


def _numbered(x: Sources, parts: Sequence[Binding]) -> Tensor | None:
    """The parts' rows, numbered through all inputs; None for all of them."""
    if all(part.rows is None for part in parts):
        return None
    numbered = []
    for part, tensor, start in zip(parts, x.tensors, x.starts, strict=True):
        every = torch.arange(tensor.shape[:-1].numel(), device=tensor.device)
        numbered.append(start + (every if part.rows is None else part.rows))
    return torch.cat(numbered)
