"""Running a model without a trace: it is found as it was, and draws the same random numbers every time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from ts_lightning.engine.running.autocast import to_float32
from ts_lightning.engine.running.hooks import Hooks
from ts_lightning.engine.running.lazy import LazyModules
from ts_lightning.engine.running.learned import Learned
from ts_lightning.engine.running.random_numbers import SameRandomNumbers
from ts_lightning.engine.running.undo import Undo

_CPU = torch.device("cpu")


class Untraced:
    """The guard around runs of a model that are none of the training's.

    Inside of it

    - what ``forward`` writes is undone afterwards: buffers, attributes, entries of lists and dictionaries, metrics
      (:mod:`ts_lightning.engine.running.undo`), parameters (:mod:`ts_lightning.engine.running.written`);
    - the random numbers are the same in every run, and afterwards the generators of PyTorch, NumPy and Python are as
      they were;
    - hooks of others run only if they take part in what the module computes (:mod:`ts_lightning.engine.running.hooks`);
    - gradient checkpointing is off, whose second run would come when all this is over;
    - autocast that the model enters by itself is one to float32 (:mod:`ts_lightning.engine.running.autocast`);
    - compiled modules run as they were written;
    - lazy modules stay lazy, and copies of them run (:mod:`ts_lightning.engine.running.lazy`).

    The modules' modes stay as they are. ``with Untraced(model)() as modules:`` is enough for one run.

    Args:
        model: what will be run.
        seed: where every run's random numbers start.

    Attributes:
        lazy: the model's lazy modules, as far as a run has called them.
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self._random_numbers = SameRandomNumbers(seed)
        self._learned, self._hooks = Learned(), Hooks()
        self.lazy = LazyModules()

    @contextmanager
    def __call__(self, *, copied: bool = True) -> Iterator[Undo]:
        """Guard a run.

        Args:
            copied: put copies in the place of the tensors that modules hold. ``False`` leaves the call of
                :meth:`Undo.copy` to the caller.

        Returns:
            The record of the model, with all its modules.
        """
        with ExitStack() as stack:
            undo = Undo(self.model, self._learned, self.seed)
            stack.callback(undo.restore)
            modules = list(undo.modules)
            # not of the record's modules, among which those that are held without registering may come first
            device = next((p.device for p in self.model.parameters()), _CPU)
            for hook in self._hooks.undone(modules):
                undo.reach(hook)
            self.lazy.replace(modules)
            stack.enter_context(self._hooks.chosen(modules))
            stack.enter_context(self._random_numbers(device))
            stack.enter_context(_no_checkpointing())
            stack.enter_context(to_float32(self.model))
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if copied:
                undo.copy()
            yield undo
            undo.learn()


class _RunPlainly:
    """Stands for the reentrant variant's function of autograd."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Stands for what the other variant has around its function."""
    yield


@contextmanager
def _no_checkpointing() -> Iterator[None]:
    """Let ``torch.utils.checkpoint.checkpoint``, by whatever name it was imported, run its function alone."""
    names: dict[str, Any] = {"CheckpointFunction": _RunPlainly}
    for name in ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl"):
        names[name] = _nothing_around
    space = vars(checkpoint)
    found = {name: space[name] for name in names if name in space}
    space.update({name: names[name] for name in found})
    try:
        yield
    finally:
        space.update(found)
