"""The solve and the pull-back as CUDA graphs: recorded once, and replayed as one launch each.

On a GPU a step in target space consists of hundreds of small operations, and launching them takes several times as long
as running them. Nothing in them changes from step to step but the numbers in place: targets, parameters and the
reference batch stay where they are.

What a solve decides by looking at numbers (whether float32 is enough, whether a weight is finite) it cannot decide in a
recording. There it writes down whether each check passed (:attr:`RidgeSolver.deferred_checks`); where one did not, the
solve is made anew without a graph, and so are all that follow.

A recording is made from aliases of the trained tensors, in the same memory: autograd ties a tensor to the stream that
it was first used on for as long as any graph of autograd holds it, a loss that is still there for one, and a recording
has a stream of its own. Before it, a rehearsal finds what cannot be recorded, since an attempt that fails leaves its
traces in PyTorch. After it, what is replayed is compared once with what is computed without.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import loop_of
from ts_lightning.layers.registry import moves_weights

#: solved parameters with their values, which autograd knows as functions of the targets
Solved = list[tuple[nn.Parameter, Tensor]]
#: makes a solve in full, with a context manager around the model's forward alone
Run = Callable[[AbstractContextManager[Any] | None], Solved]
#: puts aliases in the place of what is trained for a while, and says by id which stands for which
Aliased = Callable[[], AbstractContextManager[dict[int, Tensor]]]

_BEFORE = 3  # solves without a graph, in which libraries make their handles and choose their kernels
_TOLERANCE = 0.02  # of a norm, up to which a replay agrees
_NOISE = 1e-5  # of the largest of several norms; the same


class SolveGraphs:
    """The graphs of a target space whose model is on one GPU.

    Args:
        model: whose layers are solved.
        layers: these.
        device: where they are.

    Attributes:
        replayed: whether the last solve was.
    """

    def __init__(self, model: nn.Module, layers: Sequence[TargetLayer], device: torch.device) -> None:
        self.replayed = False
        self._model = model
        self._layers = layers
        self._device = device
        self._usable = True
        self._stream: Any = None
        self._where: list[int] = []
        self._solve: torch.cuda.CUDAGraph | None = None
        self.forget()

    def forget(self) -> None:
        """Free what was recorded; it can be recorded anew."""
        if self._solve is not None:
            torch.cuda.synchronize(self._device)  # replays may still run in that memory
        self._waited = 0
        self._solve = None
        self._solved: Solved = []
        self._held: list[Tensor] = []
        self._checks_passed = torch.ones(())
        self._aliases: dict[int, Tensor] = {}
        self._pulls: dict[tuple[int, ...], _Pull] = {}

    def solve(self, tensors: Iterator[Tensor], run: Run, aliased: Aliased) -> Solved | None:
        """Replay a solve, or record it first; None where it has to be made without a graph.

        Args:
            tensors: all that it reads: wherever one of them has moved in memory, the solve is recorded anew.
            run: makes it without a graph.
            aliased: gives :func:`aliases` for the recording.
        """
        self.replayed = False
        if not self._usable or any(solver.observer is not None for layer in self._layers for solver in layer.solvers):
            return None
        where = [tensor.data_ptr() for tensor in tensors]
        if where != self._where:
            self.forget()
            self._where = where
        self._waited += 1
        if self._waited <= _BEFORE:
            return None
        with torch.cuda.device(self._device):
            first = self._solve is None
            if first and not self._recorded(lambda: self._record(run, aliased)):
                return None
            assert self._solve is not None
            self._solve.replay()
            if not self._checks_passed:
                self._stop("a solve needed float64, a larger ridge or finite numbers")
                return None
            if first and not _agree([value for _, value in self._solved], [value for _, value in run(None)]):
                self._stop("a replayed solve gave other weights")
                return None
            self.replayed = True
            return self._solved

    def pull(
        self, pulled: Sequence[bool], trained: Sequence[Tensor], arriving: Sequence[Tensor], run: Run
    ) -> Sequence[Tensor | None]:
        """The way back of the last solve, which was replayed; recorded where it is the first for these.

        Args:
            pulled: which of the solved values have gradients.
            trained: what gradients are wanted of.
            arriving: the gradients on the values.
            run: makes the solve without a graph.
        """
        which = (*pulled, *map(id, trained))
        with torch.cuda.device(self._device):
            if which in self._pulls:
                return self._pulls[which](arriving)
            alone = list(compress((value for _, value in run(None)), pulled))
            rehearsed = self._recorded(lambda: _rehearse(alone, trained, arriving))
            expected = torch.autograd.grad(alone, trained, arriving, allow_unused=True)
            # of an overflow under a gradient scaler nothing can be compared
            if not rehearsed or not all(bool(g.isfinite().all()) for g in expected if g is not None):
                return expected
            recorded = self._recorded(lambda: self._record_pull(which, pulled, trained, arriving))
            if recorded and not _agree(self._pulls[which](arriving), expected):
                self._stop("a replayed pull-back gave other gradients")
            return expected

    def _recorded(self, record: Callable[[], None]) -> bool:
        """Whether a recording succeeded; there will be no other if it did not."""
        stream = torch.cuda.current_stream(self._device)
        try:
            record()
        except Exception as error:  # of the user's forward too, which raises it again where it is run without a graph
            torch.cuda.set_stream(stream)
            self._stop(f"recording failed: {error}")
            return False
        return True

    def _stop(self, why: str) -> None:
        self._usable = self.replayed = False
        self.forget()
        warnings.warn(f"cuda_graphs: solves are made without them from here on, since {why}.", stacklevel=3)

    def _recording(self, graph: torch.cuda.CUDAGraph) -> AbstractContextManager[Any]:
        # other threads, as those that pin batches, may go on
        options: dict[str, Any] = {"stream": self._stream, "pool": self._pool, "capture_error_mode": "thread_local"}
        return torch.cuda.graph(graph, **options)

    def _record(self, run: Run, aliased: Aliased) -> None:
        """Rehearse and record a solve.

        Raises:
            RuntimeError: it takes several runs of the model's forward.
        """
        if any(loop_of(layer) is not None for layer in self._layers):
            raise RuntimeError("a loop of layers takes a run of the model's forward of its own")
        graph = torch.cuda.CUDAGraph()
        if self._stream is None:  # one for all recordings, since libraries keep workspaces for each
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

        @contextmanager
        def recording() -> Iterator[None]:
            with self._recording(graph):
                yield
                self._checks_passed = torch.stack(checks).all()

        solvers = [solver for layer in self._layers for solver in layer.solvers]
        for around in (_no_synchronisation(), recording()):
            # other aliases for each, since a module may hold on to what the rehearsal made
            with aliased() as stand_ins:
                checks: list[Tensor] = []
                for solver in solvers:
                    solver.deferred_checks = checks
                try:
                    self._solved = run(around)
                finally:
                    for solver in solvers:
                        solver.deferred_checks = None
        self._aliases, self._solve = stand_ins, graph
        # other tensors that modules have, as masks, which they may replace
        own = (value for module in self._model.modules() for value in vars(module).values())
        self._held = [value for value in own if isinstance(value, Tensor)]

    def _record_pull(
        self, which: tuple[int, ...], pulled: Sequence[bool], trained: Sequence[Tensor], arriving: Sequence[Tensor]
    ) -> None:
        pull = _Pull(arriving)
        values = list(compress((value for _, value in self._solved), pulled))
        with self._recording(pull.graph):
            pull.record(values, [self._aliases.get(id(tensor), tensor) for tensor in trained])
        self._pulls[which] = pull


class _Pull:
    """The way back for one choice of solved values and of what is trained.

    Args:
        arriving: gradients like those that will arrive on the values.
    """

    def __init__(self, arriving: Sequence[Tensor]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self._arriving = [torch.empty_like(gradient) for gradient in arriving]
        self._found: Sequence[Tensor | None] = []

    def record(self, values: Sequence[Tensor], trained: Sequence[Tensor]) -> None:
        """Record what autograd does; the graph of the values is kept for other choices."""
        self._found = torch.autograd.grad(values, trained, self._arriving, allow_unused=True, retain_graph=True)

    def __call__(self, arriving: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients for those ``arriving``."""
        for static, given in zip(self._arriving, arriving, strict=True):
            static.copy_(given.detach())
        self.graph.replay()
        return [None if gradient is None else gradient.clone() for gradient in self._found]


@contextmanager
def aliases(model: nn.Module, trained: Sequence[nn.Parameter], targets: dict[str, Any]) -> Iterator[dict[int, Tensor]]:
    """Put aliases, in the same memory, in the place of what is trained; gives them by the id of what they are for.

    Args:
        model: some of whose parameters are trained.
        trained: these, and the targets.
        targets: by layer name; changed in place for a while, as is the model.

    Raises:
        RuntimeError: one of them would not stay where it is.
    """
    # Tensor's data has a version of its own, which a Target's has not, so that optimizers may step between the
    # recordings of a solve and of its way back
    data: Any = torch.Tensor.data
    found = {id(parameter): nn.Parameter(data.__get__(parameter)) for parameter in trained}
    for parameter in trained:
        found[id(parameter)].__dict__.update(parameter.__dict__)
    places = [(m, name, p) for m in model.modules() for name, p in m._parameters.items() if id(p) in found]
    if any(moves_weights(module) for module, _, _ in places):
        raise RuntimeError("a recurrent layer is left in weight space, whose weights cuDNN moves in memory")
    kept = dict(targets)
    try:
        targets.update({name: found[id(target)] for name, target in kept.items()})
        for module, name, own in places:
            module._parameters[name] = found[id(own)]
        yield dict(found)
    finally:
        targets.update(kept)
        for module, name, own in places:
            module._parameters[name] = own


def _rehearse(values: Sequence[Tensor], trained: Sequence[Tensor], arriving: Sequence[Tensor]) -> None:
    """Find what of a way back cannot be recorded."""
    with _no_synchronisation():
        torch.autograd.grad(values, trained, arriving, allow_unused=True, retain_graph=True)


@contextmanager
def _no_synchronisation() -> Iterator[None]:
    """Let whatever waits for the GPU, and could not be recorded, raise an error."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not find everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _agree(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether two lists of tensors are equal but for rounding."""
    if [one is None for one in found] != [other is None for other in expected]:
        return False
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    norms = [float(other.double().norm()) for _, other in pairs]
    noise = _NOISE * max(norms, default=0.0)  # all there is of a gradient that should be zero
    return all(
        float((one - other).double().norm()) <= _TOLERANCE * norm + noise
        for (one, other), norm in zip(pairs, norms, strict=True)
    )
