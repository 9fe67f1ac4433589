"""Hooks that others put on parameters (``Tensor.register_hook``), at the pull-back.

The gradient of a parameter that shapes the reference activations, as of a norm or an embedding, comes in two parts: one
from the training batch, one from the pull-back. A hook that changes gradients, as a mask of pre-trained rows, has to
change both. One that only looks, as a logger's histogram, looks at the first alone, and so once for each backward pass
as in weight space. Which one does what is found when it runs for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_Hook = Callable[[Tensor], Tensor | None]


class ParameterHooks:
    """What is known of the hooks on a model's parameters."""

    def __init__(self) -> None:
        self._looks: dict[int, tuple[_Hook, bool]] = {}  # by id of the hook, which this keeps: whether it only looks

    def observe(self, parameters: Iterable[nn.Parameter]) -> None:
        """Find out at its next call what each hook does of which nothing is known yet."""
        for parameter in parameters:
            hooks: Any = parameter._backward_hooks
            for key, hook in list(hooks.items()) if hooks else ():
                if id(hook) not in self._looks and not isinstance(hook, _Observed):
                    hooks[key] = _Observed(hook, hooks, key, self._looks)

    @contextmanager
    def acting(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Let those hooks alone run that change gradients, or of which nothing is known yet."""
        taken: list[tuple[Any, list[tuple[Any, Any]], set[Any]]] = []
        for parameter in parameters:
            hooks: Any = parameter._backward_hooks
            items = list(hooks.items()) if hooks else []
            looking = {key for key, hook in items if self._looks.get(id(hook), (None, False))[1]}
            if looking:
                taken.append((hooks, items, looking))
                for key in looking:
                    del hooks[key]
        try:
            yield
        finally:
            for hooks, items, looking in taken:
                # in their order, without those that removed themselves
                kept = {key: hooks.get(key, hook) for key, hook in items if key in hooks or key in looking}
                hooks.clear()
                hooks.update(kept)


class _Observed:
    """Stands for a hook until it has been called once.

    Args:
        hook: the hook.
        holder: the parameter's hooks, in which this stands for it.
        key: its key there.
        looks: where what it does is written down.
    """

    def __init__(self, hook: _Hook, holder: Any, key: Any, looks: dict[int, tuple[_Hook, bool]]) -> None:
        self._hook, self._holder, self._key, self._looks = hook, holder, key, looks

    def __call__(self, gradient: Tensor) -> Tensor | None:
        before = gradient._version
        if self._holder.get(self._key) is self:
            self._holder[self._key] = self._hook
        result = self._hook(gradient)
        self._looks[id(self._hook)] = (self._hook, result is None and gradient._version == before)
        return result


def hooked(target: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient as the hooks of its target leave it, which autograd calls elsewhere."""
    hooks: Mapping[int, Callable[[Tensor], Tensor | None]] | None = target._backward_hooks
    for hook in tuple((hooks or {}).values()):
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient
