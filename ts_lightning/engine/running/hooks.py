"""Which hooks of others run in the reference pass: those that take part in what the module computes.

A forward hook or pre-hook takes part if it returns something, or writes to its module or to the tensors that it is
given, as those of spectral norm, pruning, quantisation and adapters do. One that only looks does not run: it would
collect activations of samples that are none of the training batch's, and keep the graph of the pass. Which one does
what is found when it runs for the first time; of a forward hook, as loggers set them, it is known in all passes from
then on, of a pre-hook in all on the same batch. What a forward hook of the user's wrote elsewhere then is undone
(:meth:`~ts_lightning.engine.running.undo.Undo.reach`); a pre-hook and a library's hook see that one pass. Backward
hooks do not run: the pull-back is no backward of the module.

A hook that a module's own library put there is part of the module, whatever it does: those of transformers collect
the hidden states that a later part of the forward reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.engine.running.libraries import of_user

_FORWARD = ("_forward_pre_hooks", "_forward_hooks")
_BACKWARD = ("_backward_pre_hooks", "_backward_hooks")
#: by owner and forward hook, whether it takes part
_known: WeakKeyDictionary[Any, WeakKeyDictionary[Any, bool]] = WeakKeyDictionary()


class Hooks:
    """What is known of the hooks of a model."""

    def __init__(self) -> None:
        self._acts: dict[int, tuple[Any, bool]] = {}  # of pre-hooks, and those without weak references, by id; kept

    def undone(self, modules: Sequence[nn.Module]) -> Iterator[Callable[..., Any]]:
        """The hooks that may run in the next pass, and of which all is undone."""
        for owner, holder, prefix in _holders(modules):
            for hook in holder.get(f"{prefix}_forward_hooks", {}).values():
                if self._takes_part(owner, hook, True) is not False:
                    yield hook
            for hook in holder.get(f"{prefix}_forward_pre_hooks", {}).values():
                if self._takes_part(owner, hook, False):
                    yield hook

    @contextmanager
    def chosen(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Let those alone run that take part, or of which nothing is known yet."""
        changed: list[tuple[dict[str, Any], str, Any]] = []

        def put(holder: dict[str, Any], name: str, value: Any) -> None:
            changed.append((holder, name, holder[name]))
            holder[name] = value

        for owner, holder, prefix in _holders(modules):
            for name in _FORWARD:
                if holder.get(prefix + name):
                    put(holder, prefix + name, self._filtered(owner, holder[prefix + name], name == _FORWARD[1]))
            for name in _BACKWARD:
                if holder.get(prefix + name):
                    put(holder, prefix + name, OrderedDict())
        try:
            yield
        finally:
            for holder, name, value in reversed(changed):
                holder[name] = value

    def _filtered(self, owner: Any, hooks: dict[int, Any], shared: bool) -> OrderedDict[int, Any]:
        found: OrderedDict[int, Any] = OrderedDict()
        for key, hook in hooks.items():
            acts = self._takes_part(owner, hook, shared)
            if acts is None:
                found[key] = self._observed(owner, hook, shared)
            elif acts:
                found[key] = hook
        return found

    def _takes_part(self, owner: Any, hook: Callable[..., Any], shared: bool) -> bool | None:
        """Whether a hook takes part in what its module computes; None where it has not run yet.

        Args:
            owner: the module that it is on.
            hook: the hook.
            shared: whether what is known of it is known in the passes on other batches.
        """
        if isinstance(owner, nn.Module) and _of_one_library(hook, type(owner)):
            return True
        if shared:
            try:
                return _known[owner].get(hook) if owner in _known else None
            except TypeError:
                pass
        return self._acts.get(id(hook), (None, None))[1]

    def _learn(self, owner: Any, hook: Callable[..., Any], shared: bool, acts: bool) -> None:
        acts = acts or bool(self._takes_part(owner, hook, shared))
        if shared:
            try:
                _known.setdefault(owner, WeakKeyDictionary())[hook] = acts
                return
            except TypeError:
                pass
        self._acts[id(hook)] = (hook, acts)

    def _observed(self, owner: Any, hook: Callable[..., Any], shared: bool) -> Callable[..., Any]:
        """The hook, and what it turns out to do written down."""

        def observed(module: nn.Module, *args: Any) -> Any:
            before, versions = _held(module), _versions(args)
            result = hook(module, *args)
            same = _held(module) == before and _versions(args) == versions
            self._learn(owner, hook, shared, result is not None or not same)
            return result

        return observed


def _holders(modules: Sequence[nn.Module]) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """What holds hooks, those of all modules first: whose they are, where they are, and what their names begin with."""
    yield torch_module, vars(torch_module), "_global"
    for module in modules:
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked or module._backward_hooks or module._backward_pre_hooks:
            yield module, module.__dict__, ""


def _held(module: nn.Module) -> list[tuple[int, int]]:
    """The tensors that a module holds, by id, with their versions."""
    holders = (vars(module), module._parameters, module._buffers)
    return [(id(t), t._version) for holder in holders for t in holder.values() if isinstance(t, Tensor)]


def _versions(args: Any) -> list[int]:
    return [tensor._version for tensor in tensors_in(args)]


def _of_one_library(hook: Any, kind: type) -> bool:
    """Whether a hook was defined in the installed library that a class is of, PyTorch aside."""
    name = getattr(hook, "__module__", None) or ""
    library = kind.__module__.partition(".")[0]
    return name.partition(".")[0] == library != "torch" and not of_user(name)
