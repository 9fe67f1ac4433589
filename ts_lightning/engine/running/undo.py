"""What a forward writes beside its result is undone: attributes, buffers, entries of lists and dictionaries, counters.

The forward runs on copies of the buffers and of other tensors that modules hold. What it writes to these in place is
gone with the copies, and a graph of autograd that outlives the forward holds tensors to which nobody else writes.

Long lists and dictionaries get their entries back without a look into these, as those to which every training step
appends. Iterators are read ahead of training (:mod:`ts_lightning.engine.running.ahead`). Objects of installed
libraries, modules aside, and large arrays of NumPy are left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ts_lightning.engine.running.ahead import Iterators, Reading, is_iterator
from ts_lightning.engine.running.arrays import Arrays, is_array
from ts_lightning.engine.running.batches import own, sequence
from ts_lightning.engine.running.generators import is_generator, putting_back, start_at
from ts_lightning.engine.running.learned import ATOMIC, INTERNAL, Learned
from ts_lightning.engine.running.libraries import of_user
from ts_lightning.engine.running.reached import Reached
from ts_lightning.engine.running.written import LARGE, Written, bytes_of, version_of, warn_of_write

_FEW = 64  # entries of a container, up to which these are looked into
_DICTIONARIES = ("_buffers", "_parameters", "_modules", "_forward_pre_hooks", "_forward_hooks")
_MISSING = object()


class Undo:
    """A record of a model and all that it holds, to put it back.

    An attribute that forward itself writes, as the state that a recurrent model hands from batch to batch or a bank of
    earlier outputs, begins every run with the value that it had before the first; a plain number goes on.

    Args:
        model: what will be run.
        learned: by earlier runs.
        seed: of every generator of random numbers that modules hold, while the record stands; None leaves them.

    Attributes:
        modules: the model's, with those that modules hold without registering them.
    """

    def __init__(self, model: nn.Module, learned: Learned, seed: int | None) -> None:
        self.modules: list[nn.Module] = []
        self._learned, self._seed = learned, seed
        self._seen: dict[int, Any] = {}
        self._holders: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of the modules, in their order
        self._dictionaries: list[tuple[Any, dict[Any, Any]]] = []
        self._empty: list[dict[Any, Any]] = []  # of modules
        self._sequences: list[tuple[Any, Any]] = []
        self._arrays, self._iterators = Arrays(learned.arrays), Iterators(learned.items)
        self._reached = Reached()
        self._generators: list[Callable[[], Any]] = []  # which put them back
        self._elsewhere: list[tuple[nn.Module, bool]] = []  # modules that keep their mode outside of their attributes
        self._scripted: list[tuple[nn.Module, str, Tensor]] = []  # buffers of TorchScript, by module and name
        self._tensors: list[tuple[Any, Any, Any]] = []  # container, key, value
        self._copies: dict[int, tuple[Tensor, Tensor, int]] = {}  # a copy, of what, and its version then
        self._parameters: Written | None = None
        self._module(model)

    def reach(self, function: Any) -> None:
        """Record what a function can write to, see :mod:`ts_lightning.engine.running.reached`."""
        self._found(self._reached.add(function))

    def reach_attributes(self, owner: Any) -> None:
        """Record which attributes an object or a class has, without a look into what an object holds."""
        if isinstance(owner, type):
            self._found(self._reached.add_class(owner))
        elif owner is not None:
            self._dictionaries.append((owner.__dict__, owner.__dict__.copy()))

    def leave(self, modules: Iterable[nn.Module]) -> None:
        """Leave modules out, of which there is another record."""
        self._seen.update({id(module): module for module in modules})

    def copy(self) -> None:
        """Put copies in the place of the tensors that modules hold, and attributes that forward writes at their start.

        Apart from the record, because it belongs into the recording of a CUDA graph.
        """
        self._parameters = Written(self.modules, self._learned.seen)
        for module, name, buffer in self._scripted:
            setattr(module, name, own(buffer))
        for container, key, value in self._tensors:
            if container[key] is value:  # and not what the mode has put there
                container[key] = self._copied(value)
        self._arrays.start()
        self._iterators.read_ahead()
        for module, starts in self._learned.starts.items():
            for name, value in starts.items():
                if value is _MISSING:
                    module.__dict__.pop(name, None)
                else:
                    module.__dict__[name] = self._copied(value)
        for (module, name), known in self._learned.registries.items():
            entries = module.__dict__[name]  # of hooks, those that were chosen to run
            module.__dict__[name] = type(entries)((key, entries[key]) for key in entries if key in known)

    def read(self, tensor: Tensor, data: Tensor) -> None:
        """Take note of the ``data`` of a tensor, whose writes the tensor's version does not count."""
        if self._parameters is not None:
            self._parameters.read(tensor, data)

    def learn(self) -> None:
        """Keep for later runs what this one wrote to."""
        self._learned.seen.update(self.modules)
        self._arrays.learn()
        learned = False
        for module, (holder, before) in zip(self.modules, self._holders, strict=True):
            if "training" in before:  # which the mode of the pass has changed
                holder["training"] = before["training"]
            if len(holder) == len(before) and all(map(is_, holder.values(), before.values())):
                continue  # almost all modules, of whose attributes none was written
            for name, now in holder.items():
                was = before.get(name, _MISSING)
                if was is now or name in INTERNAL or (type(was) in ATOMIC and type(now) in ATOMIC):
                    continue
                if name not in self._learned.starts.get(module, ()) and self._written(was, now):
                    self._learned.starts.setdefault(module, {})[name] = _detached(was)
                    learned = True
        if learned:  # what forward writes once, as that it has put its hooks, it may do together with registering
            self._learn_registries()
        for copy, given, version in self._copies.values():
            if bytes_of(given) > LARGE:
                if copy is given and version_of(copy) != version:
                    warn_of_write(given)
                if version_of(copy) == version:
                    self._learned.large[id(given)] = (given, version_of(given))
                else:
                    self._learned.large.pop(id(given), None)

    def _learn_registries(self) -> None:
        """Keep what modules had registered, where forward added to it."""
        known = {id(entries): kept for entries, kept in self._dictionaries}
        for module, (holder, before) in zip(self.modules, self._holders, strict=True):
            for name in _DICTIONARIES:
                kept = known.get(id(before.get(name)), {})
                entries = holder.get(name)
                grown = isinstance(entries, dict) and any(key not in kept for key in entries)
                if grown and (module, name) not in self._learned.registries:
                    self._learned.registries[module, name] = set(kept)

    def restore(self) -> None:
        """Put everything back."""
        if self._parameters is not None:
            self._parameters.restore()
            for module, name, buffer in self._scripted:
                setattr(module, name, buffer)
        for holder, before in self._holders:
            _put_back(holder, before)
        for dictionary, entries in self._dictionaries:
            _put_back(dictionary, entries)
        for dictionary in self._empty:
            if dictionary:
                dictionary.clear()
        for held, kept in self._sequences:
            if isinstance(held, set):
                held.symmetric_difference_update(held ^ kept)
            elif len(held) != len(kept) or any(a is not b for a, b in zip(held, kept, strict=True)):
                held.clear()
                held.extend(kept)
        self._reached.restore()
        self._arrays.restore()
        self._iterators.restore()
        for put_back in reversed(self._generators):  # the first of those that share their state has the oldest
            put_back()
        for module, training in self._elsewhere:
            module.training = training

    def _module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen[id(module)] = module
        holder = module.__dict__
        before = holder.copy()
        self.modules.append(module)
        self._holders.append((holder, before))
        if "training" not in before and hasattr(module, "training"):
            self._elsewhere.append((module, module.training))
        for name in _DICTIONARIES:
            entries = before.get(name)
            if entries and isinstance(entries, dict):
                self._dictionaries.append((entries, entries.copy()))
            elif isinstance(entries, dict):
                self._empty.append(entries)
        buffers = before.get("_buffers")
        if buffers and isinstance(buffers, dict):
            self._tensors.extend((buffers, name, value) for name, value in buffers.items() if value is not None)
        for name in self._learned.attributes(module, before):
            self._entry(holder, name, before[name])
        if not isinstance(module._buffers, dict):  # of TorchScript
            self._scripted.extend((module, name, buffer) for name, buffer in module.named_buffers(recurse=False))
        for child in module._modules.values():
            if child is not None:
                self._module(child)

    def _found(self, entries: Iterable[tuple[Any, Any, Any]]) -> None:
        for container, key, value in entries:
            if container is None:
                self._record(value)
            else:
                self._entry(container, key, value)

    def _entry(self, container: Any, key: Any, value: Any) -> None:
        """Record what stands in a container."""
        if type(value) in ATOMIC:
            return
        if isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)):
            self._tensors.append((container, key, value))
        elif is_iterator(value):
            self._iterators.add(container, key, value)
        else:
            self._record(value)

    def _record(self, value: Any) -> None:
        """Record an object that can be changed."""
        if type(value) in ATOMIC or id(value) in self._seen or isinstance(value, Tensor):
            return
        if isinstance(value, nn.Module):
            self._module(value)
            return
        self._seen[id(value)] = value
        if isinstance(value, dict):
            self._dictionaries.append((value, dict(value)))
            if len(value) <= _FEW:
                for key, entry in value.items():
                    self._entry(value, key, entry)
        elif isinstance(value, (list, deque)):
            self._sequences.append((value, list(value)))
            if len(value) <= _FEW:
                for index, entry in enumerate(value):
                    self._entry(value, index, entry)
        elif isinstance(value, tuple):
            for entry in value[:_FEW]:
                self._record(entry)
        elif isinstance(value, set):
            self._sequences.append((value, value.copy()))
        elif is_array(value):
            self._arrays.add(value)
        elif is_generator(value):
            self._generators.append(putting_back(value))
            if self._seed is not None:
                start_at(value, self._seed)
        elif hasattr(value, "__dict__") and of_user(type(value).__module__):
            self._record(value.__dict__)

    def _copied(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return sequence(value, [self._copied(item) for item in value])
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or is_lazy(value):
            return value
        if value.requires_grad and isinstance(value._base, nn.Parameter):  # a view of a weight, with its graph
            return value
        known = self._copies.get(id(value))
        if known is None:
            clean = bytes_of(value) > LARGE and self._learned.large.get(id(value)) == (value, version_of(value))
            copy = value if clean else own(value)
            known = self._copies[id(value)] = (copy, value, version_of(copy))
        return known[0]

    def _written(self, was: Any, now: Any) -> bool:
        """Whether an attribute was written to: set to another value, or a tensor changed in place."""
        if isinstance(was, tuple) and isinstance(now, tuple) and len(was) == len(now):
            return any(self._written(a, b) for a, b in zip(was, now, strict=True))
        if isinstance(now, Reading):
            return now.given is not was
        if isinstance(was, Tensor) and id(was) in self._copies:
            copy, _, version = self._copies[id(was)]
            return now is not copy or version_of(copy) != version
        return was is not now


def _put_back(holder: dict[Any, Any], entries: dict[Any, Any]) -> None:
    if len(holder) == len(entries) and list(holder) == list(entries):
        if all(map(is_, holder.values(), entries.values())):
            return
    else:
        holder.clear()  # since state_dict() goes in the order of entries
    for key, value in entries.items():
        if key not in holder or holder[key] is not value:
            holder[key] = value


def _detached(value: Any) -> Any:
    if isinstance(value, tuple):
        return sequence(value, [_detached(item) for item in value])
    return own(value) if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value
