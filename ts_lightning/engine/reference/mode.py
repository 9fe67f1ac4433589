"""The mode of a model in the reference pass: dropout off, batch norm on the reference batch's own statistics.

A norm that the user has put into eval mode, while the model is in training mode, is frozen: it keeps its running
statistics; dropout in eval mode is none in training either. Where several processes share the batch, the other norms
use the statistics of all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ts_lightning.engine.reference.shared_norm import shared_norm
from ts_lightning.ridge.processes import Shards


class ReferenceMode:
    """The mode of one model.

    Args:
        model: the model.
        shards: the processes that share the reference batch; ``None`` for one.

    Attributes:
        frozen: the modules that were in eval mode when the model was in training mode the last time.
    """

    def __init__(self, model: nn.Module, shards: Shards | None) -> None:
        self._model, self._shards = model, shards
        self.frozen: set[nn.Module] = set()

    @contextmanager
    def __call__(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Set the mode of these modules, which are recorded and put back by others."""
        modules = [module for module in modules if hasattr(module, "training")]  # which frozen TorchScript has not
        if self._model.training:
            self.frozen = {module for module in modules if not module.training}
        own = [module for module in modules if isinstance(module, _NormBase) and module not in self.frozen]
        for module in self.frozen:
            if isinstance(module, _DropoutNd):
                module.p = 0.0
            elif isinstance(module, nn.RNNBase):
                module.dropout = 0.0
        for module in modules:
            if "training" in vars(module):
                vars(module)["training"] = False  # past nn.Module.__setattr__, which is slow
            else:  # of TorchScript, or a property
                module.training = False
        for norm in own:
            norm.training = True
            # its running statistics stay, for whoever reads them, as a convolution that quantises with its norm does;
            # an instance norm writes to them all the same, which are copies in the pass
            norm.track_running_stats = False
        fastpath = torch.backends.mha.get_fastpath_enabled()
        # the fused inference kernels of transformers bypass the layers
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with forwards(self._of_norms(own)):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)

    def _of_norms(self, norms: Sequence[_NormBase]) -> dict[nn.Module, Callable[..., Any]]:
        """What stands for the forward of batch norms, to which the samples of the reference batch are one batch."""
        batch = [norm for norm in norms if isinstance(norm, _BatchNorm)]
        if self._shards is not None:
            return {norm: partial(shared_norm, norm, self._shards) for norm in batch}
        # it would ask other processes about the samples that this one has, too
        return {norm: partial(_BatchNorm.forward, norm) for norm in batch if isinstance(norm, nn.SyncBatchNorm)}


class _StandIn:
    """Stands for the forward of a module, and not for that of a copy, which ``forward`` may make and call."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._own, self._forward = module, vars(module).get("forward"), forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What the copy has in the place of this: its own forward."""
        if self._own is not None:
            return deepcopy(self._own, memo)
        made = memo.get(id(self._module))
        return self if made is None else MethodType(type(made).forward, made)


@contextmanager
def forwards(given: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward for a while."""
    kept = {module: module.__dict__.get("forward") for module in given}
    stand_ins = {module: _StandIn(module, forward) for module, forward in given.items()}
    try:
        for module, stand_in in stand_ins.items():
            module.__dict__["forward"] = stand_in
        yield
    finally:
        for module, own_forward in kept.items():
            if own_forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own_forward


@contextmanager
def inherited(given: Mapping[nn.Module, Callable[..., Any]], bases: Collection[type[nn.Module]]) -> Iterator[None]:
    """Give modules another forward for a while, in the place of that of ``bases``, which their own ones call."""
    kept: dict[Any, Any] = {base: vars(base).get("forward") for base in bases}
    try:
        for base in kept:
            base.forward = _either(given, base.forward)
        yield
    finally:
        for base, own_forward in kept.items():
            if own_forward is None:
                del base.forward
            else:
                base.forward = own_forward


def _either(given: Mapping[nn.Module, Callable[..., Any]], forward: Callable[..., Any]) -> Callable[..., Any]:
    """A class's forward, and what stands for it in the modules that are ``given``."""

    def either(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        stand_in = given.get(module)
        return forward(module, *args, **kwargs) if stand_in is None else stand_in(*args, **kwargs)

    return either
