"""The contract between a solved layer and the engine: what a family of layers answers, and what binding a layer fixes.

A family (linear, conv, recurrent, attention, or one of others' by :func:`~ts_lightning.register_layer`) says how its
layers become A, T and W. The engine asks, in this order:

1. :meth:`TargetLayer.solves`, :meth:`TargetLayer.of`: can a module be solved, and which layers does it consist of;
2. :meth:`TargetLayer.bind`, on the input of the first reference pass: the rows, the targets' shape and unit, the ridge,
   as one immutable :class:`Binding`, which :meth:`TargetLayer.adopt` takes; where processes share the reference batch,
   :meth:`TargetLayer.shard` gives the binding to this process's rows;
3. :meth:`TargetLayer.start` or :meth:`TargetLayer.reproduce`: initial targets;
4. :meth:`TargetLayer.solve`, in every reference pass: input and targets to weights and to what the next layer receives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ts_lightning.amount import amount
from ts_lightning.config import Rows, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.binding import Binding, Size, StepUnit
from ts_lightning.layers.part import wholes_of
from ts_lightning.layers.rows import feature_varies, sample_dimension, share_rows
from ts_lightning.ridge.processes import Cut, Shards
from ts_lightning.ridge.repeated import Repeated
from ts_lightning.ridge.system import RidgeSolver

#: stands for a layer's forward in the reference pass: (layer, its input) -> what the next layer receives
Visit = Callable[["TargetLayer", Any], Any]


class TargetLayer(ABC):
    """One layer whose weights are solved from targets; a module consists of one (linear, conv) or several of them.

    Args:
        name: the layer's name, under which its targets are kept.
        module: the module that it belongs to.
        config: the target space's settings.
        width: the number of columns of T.

    Attributes:
        module_name: the module's name in the model.
        parameters: the module's parameters that targets replace; the first one's place in an optimizer is theirs.
        solvers: one for each of the layer's systems, at most :attr:`systems`; ``solver`` is the first.
        anchor: values of the parameters, W0, around which the layer is solved; None for zero. See :meth:`anchor_at`.
        uses: how many times one forward uses the layer; it is solved from the rows of the first, or of all in a loop.
        beside: which of its calls in one forward, counted from 0, no solve depends on, see ``engine/survey/beside.py``.
        stage: how many loops have to be solved before the layer, see ``engine/reference/walk.py``.
    """

    #: factor of the "auto" step scale of every layer of a model with such a layer; docs/defaults.md
    step_share: ClassVar[float] = 1.0
    #: standard deviation of the targets of ``init="normalised"`` where the config says none; docs/defaults.md
    normalised_std: ClassVar[float] = 0.6
    #: the same of the random targets of ``init="projected"``
    projected_std: ClassVar[float] = 1.0
    #: the most systems that a layer has, one for each of its inputs
    systems: ClassVar[int] = 1
    #: whether a sample usually is many rows (positions, steps), so that fewer samples make a reference batch
    many_rows: ClassVar[bool] = True
    #: whether PyTorch moves the weights of such a module in memory while it runs, which CUDA graphs cannot follow
    moves_weights: ClassVar[bool] = False
    #: whether the forward reaches the weight through a function, and not by a call of the module
    by_function: ClassVar[bool] = False
    parameters: list[nn.Parameter]

    def __init__(self, name: str, module: nn.Module, config: TargetSpaceConfig, width: int) -> None:
        self.name = self.module_name = name
        self.module, self.width, self.config = module, width, config
        self.ocu = config.method == "ocu"
        label = f"layer '{name}'"
        self.solvers = [RidgeSolver(1.0, config.ridge_scale, config.solve_dtype, label) for _ in range(self.systems)]
        self.solver = self.solvers[0]
        self.anchor: tuple[Tensor, ...] | None = None
        self.uses = 1
        self.beside: frozenset[int] = frozenset()
        self.stage = 0
        self._binding: Binding | None = None

    @property
    def wholes(self) -> list[nn.Parameter]:
        """The model's parameters that :attr:`parameters` are, or are parts of."""
        return wholes_of(self.parameters)

    @property
    def binding(self) -> Binding:
        """What :meth:`adopt` was given last."""
        assert self._binding is not None, f"layer '{self.name}' is not bound"
        return self._binding

    @property
    def joined_uses(self) -> int:
        """How many uses are joined in the layer's input: those of a loop, 1 elsewhere."""
        return 1

    @property
    def rows(self) -> Tensor | None:
        """Indices of the sampled rows, (rows,); None where all rows are solved from."""
        return self.binding.rows

    @property
    def unit(self) -> float:
        """What a target of 1 stands for, in units of the outputs; see ``step_scale``."""
        return self.binding.unit

    @classmethod
    def solves(cls, module: nn.Module, base: type[nn.Module]) -> bool:
        """Whether the family can solve ``module``, an instance of the registered class ``base``.

        It can where the module computes what ``base`` computes, and holds every weight as a parameter of its own,
        without parametrization.
        """
        return type(module).forward is base.forward and module._parameters.get("weight") is not None

    @classmethod
    def inner_modules(cls, module: nn.Module) -> Sequence[nn.Module]:
        """Submodules whose weights ``module`` uses without calling them, so that they are no layers themselves."""
        return ()

    @classmethod
    @abstractmethod
    def of(cls, name: str, module: nn.Module, config: TargetSpaceConfig) -> Sequence[TargetLayer]:
        """The layers that the module ``name`` consists of.

        Raises:
            TargetSpaceError: the module has an option that cannot be solved.
        """

    @staticmethod
    @abstractmethod
    def forward(layers: Sequence[TargetLayer], visit: Visit, *args: Any, **kwargs: Any) -> Any:
        """The forward of the module that ``layers`` belong to, with ``visit`` for each layer's own."""

    @abstractmethod
    def places(self, x: Any) -> torch.Size:
        """The sizes of the dimensions along which the layer is applied to ``x``; their C order numbers the rows."""

    @abstractmethod
    def bind(self, x: Any, rows: Rows | Tensor, unit: StepUnit, generator: torch.Generator) -> Binding:
        """What is fixed for inputs like ``x``; changes nothing about the layer.

        Args:
            x: the layer's input in the first reference pass.
            rows: the setting ``reference.rows``, or the indices of the rows to solve from.
            unit: the model's.
            generator: for a random sample of the rows.
        """

    def adopt(self, binding: Binding) -> None:
        """Solve as ``binding`` says from here on."""
        self._binding = binding
        self.solver.ridge, self.solver.shared, self.solver.repeated = binding.ridge, binding.shared, Repeated()
        # at the other uses each process has rows of its own
        self.solver.gradient_is_replicated = binding.gradient_is_replicated and self.uses == 1

    def anchor_at(self, values: Sequence[Tensor] | None) -> None:
        """Solve around given weights W0 from here on: W = W0 + (A'A + R)^-1 A'(T - A W0).

        The ridge then pulls to W0 in the place of zero. T = A W0 gives W0 back exactly, whatever the rank of A, and a
        direction of which the reference batch says nothing keeps its weights.

        Args:
            values: of the parameters; copied. None for zero.
        """
        self.anchor = None if values is None else tuple(value.detach().clone() for value in values)

    def anchored_targets(self, x: Any) -> Tensor:
        """Anchor the layer at the weights that it has; returns the targets A W0 that give them back, in the unit."""
        self.anchor_at(self.parameters)
        with torch.enable_grad():  # by the very operations of a solve
            return self.around(x).detach() / self.unit

    def around(self, x: Any) -> Tensor:
        """A W0 for the anchor W0, in the targets' shape and in units of the outputs.

        By the operations of :meth:`solve`, where that is possible: T - A W0 is then zero to the last bit for targets
        whose unit is a power of two, and the weights stay as they are.
        """
        assert self.anchor is not None, f"layer '{self.name}' has no anchor"
        return self.achieved(x, self.anchor)

    def features(self, x: Any) -> list[Tensor]:
        """What the weights multiply, each (..., features), as far as the input tells; empty where unknown."""
        return []

    def varies(self, x: Any) -> bool:
        """Whether every input has a feature that is not the same everywhere, so that weights can be solved from it."""
        return all(map(feature_varies, self.features(x)))

    def shard(self, x: Any, shards: Shards) -> tuple[Binding, Cut]:
        """The binding to this process's share of the rows that the layer is bound to; changes nothing about the layer.

        Args:
            x: an input of this process's samples.
            shards: the processes.

        Returns:
            The binding, and which of the targets are this process's.

        Raises:
            TargetSpaceError: the samples do not lie along one dimension of the places.
        """
        whole, here, uses = self.binding, self.places(x), self.joined_uses
        everywhere = [torch.Size(there) for there in shards.objects(tuple(here))]
        dim = sample_dimension(whole.places, everywhere, shards)
        if dim is None:
            raise TargetSpaceError(
                f"layer '{self.name}' is applied at {tuple(whole.places)} places of the "
                f"{amount(shards.samples, 'sample')} of the reference batch, and at {tuple(everywhere[0])} of "
                f"{len(range(*shards.bounds(0)))} of them; one dimension should be a multiple of the samples. Use "
                f"reference.shard=False, or add '{self.module_name}' to exclude."
            )
        rows, shared, cut = share_rows(whole.rows, whole.places, here, dim, shards, uses)
        shape = self.target_shape(here, rows)
        return replace(whole, places=here, rows=rows, shape=shape, shared=shared), cut

    def target_shape(self, places: torch.Size, rows: Tensor | None) -> torch.Size:
        """The shape of the targets: (*places, width), or (rows, width) where rows are sampled."""
        return torch.Size([*(places if rows is None else rows.shape), self.width])

    def _ridge(self, auto: float) -> float:
        """The ridge of the settings, ``auto`` where they say "auto"."""
        return auto if self.config.ridge == "auto" else self.config.ridge

    def expect_noise(self, x: Any, noise_of: Callable[[Tensor], float]) -> None:
        """Take note of the noise that training has on the layer's input, as dropout; called before every solve.

        Families that do not know which of their columns are noisy leave it out of their solves.

        Args:
            x: the layer's input, without the noise.
            noise_of: for a tensor of it, the mean square of the noise in units of that of the tensor: p / (1 - p) for
                dropout of rate p.
        """
        return

    @abstractmethod
    def solve(self, x: Any, targets: Tensor) -> tuple[list[Tensor], Any]:
        """Solve on input ``x`` for ``targets`` in :attr:`unit`, differentiably.

        Returns:
            The values of :attr:`parameters`, and what the next layer receives: in SCU what the layer produces with
            them, in OCU what it was asked to produce.
        """

    def sizes(self) -> list[Size]:
        """The size of each system of the bound layer; empty where the family does not say."""
        return []

    def kept_targets(self, targets: Tensor) -> list[Tensor]:
        """T of each of the layer's systems for ``targets`` in :attr:`unit`, in the outputs' unit and in solve's order.

        With :meth:`kept_values` it says how weights follow from targets between two untanglings, where :meth:`solve` is
        not called.

        Raises:
            TargetSpaceError: the family does not say so.
        """
        raise TargetSpaceError(
            f"layer '{self.name}': {type(self).__name__} does not say how its weights follow from targets between two "
            f"untanglings (kept_targets and kept_values). Use untangle=1, or add '{self.module_name}' to exclude."
        )

    def kept_values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """The values of :attr:`parameters` for W of each system."""
        raise NotImplementedError

    @abstractmethod
    def produce(self, x: Any, values: Sequence[Tensor]) -> Any:
        """What the next layer receives for any input ``x`` and these values of the parameters."""

    @abstractmethod
    def achieved(self, x: Any, values: Sequence[Tensor]) -> Tensor:
        """What the layer produces on input ``x`` with these parameters where it has targets, in the targets' shape.

        In units of the outputs, as are the targets of :meth:`reproduce` and :meth:`start`.
        """

    @abstractmethod
    def reproduce(self, x: Any, values: Sequence[Tensor], damping: float) -> tuple[Tensor, int, int]:
        """Targets whose solution on input ``x`` is ``values``.

        Args:
            x: the layer's input.
            values: of the parameters.
            damping: how much of the ridge is added to A'A where the ridge's shrinkage is made up for; 0 for none.

        Returns:
            The targets in units of the outputs, the rank of A (not looked for with damping), and its columns.
        """

    @abstractmethod
    def start(self, x: Any, std: float, generator: torch.Generator) -> Tensor:
        """Initial targets of the standard deviation ``std`` for ``init="normalised"``, in units of the outputs."""
