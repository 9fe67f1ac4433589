"""What a Lightning checkpoint holds of target space, and what a fit goes on from.

The ``state_dict`` of a checkpoint is the ordinary one of weights. Under the key ``target_space`` stand the targets, the
sampled rows, the reference batch, fingerprints of the solved weights, and the weights of layers that are held or were
written from outside, all of them whole, however many processes wrote them, in tensors and built-in types.
``optimizer_states`` have the numbering of weight space and the options of the parameter groups, as learning rates that
a scheduler has changed: a class without the mixin resumes from them, with fresh moments. The moments of what target
space trains stand in each of these states under the same key, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
from ts_lightning.engine.names import plain_name
from ts_lightning.engine.space import TargetSpace
from ts_lightning.lightning.fingerprint import fingerprints
from ts_lightning.lightning.substitution import KEY, Substitution

#: under which a module's class and settings stand, those of weight space (None) as well
SETTINGS = "target_space_settings"
#: settings of the reference batch that say what of it is solved from, and cannot change within a run
_DRAWN = ("size", "rows")
#: settings by which the same targets have other weights
_SOLVING = ("ridge", "ridge_scale", "method")
#: one by which those of an LSTM have
_OF_LSTM = "forget_bias"


def _in_yaml(kind: type[Any], settings: Callable[[Any], dict[str, Any]], made: Callable[[dict[str, Any]], Any]) -> None:
    """Let yaml write a class as its settings, and make it from these again."""
    tag = f"!ts_lightning.{kind.__name__}"
    yaml.add_representer(kind, lambda dumper, one: dumper.represent_mapping(tag, settings(one)))
    yaml.add_constructor(tag, lambda loader, node: made(loader.construct_mapping(node, deep=True)))


# hyperparameters of a module may hold these: weights_only=True then loads them, and so does the hparams.yaml of loggers
torch.serialization.add_safe_globals([TargetSpaceConfig, ReferenceConfig])
_in_yaml(TargetSpaceConfig, TargetSpaceConfig.to_dict, TargetSpaceConfig.from_dict)
_in_yaml(ReferenceConfig, asdict, lambda settings: ReferenceConfig(**settings))


@dataclass
class Restored:
    """What the next fit starts from.

    Args:
        entry: what a checkpoint or the last fit holds of target space; ``None`` where there are weights alone.
        optimizer_states: of the checkpoint.
        resuming: a fit was given the checkpoint to resume from, so that what does not fit it is an error; otherwise the
            weights are started from.
        same_module: it is what the module's last fit left.
        settings: that the checkpoint was written with; None where it does not say so.
    """

    entry: dict[str, Any] | None
    optimizer_states: Sequence[dict[str, Any]] = ()
    resuming: bool = False
    same_module: bool = False
    settings: Mapping[str, Any] | None = None

    def chosen_anew(self, module: nn.Module) -> dict[str, Any] | None:
        """The entry for another fit, which solves all that is trained by now, also what the last one left frozen."""
        if self.entry is None or "frozen" not in self.entry:
            return self.entry
        frozen = {*self.entry["frozen"], *self.entry["thawed"]}
        still = [plain_name(name) for name, p in module.named_parameters() if not p.requires_grad]
        return {**self.entry, "frozen": [name for name in still if name in frozen], "thawed": []}

    def mismatch(self, settings: TargetSpaceConfig) -> str | None:
        """What of the settings differs from those that the entry was written with, in words."""
        for name, written in ({} if self.entry is None else self.entry["drawn"]).items():
            found = getattr(settings.reference, name)
            if written != found:
                return f"The checkpoint was written with reference.{name}={written!r}; found {found!r}."
        return None

    def solved_otherwise(self, settings: TargetSpaceConfig, module: nn.Module) -> str | None:
        """Which settings give the entry's targets other weights than those that it was written with, in words."""
        # the settings beside an entry may be another's: of a module that has loaded it and not trained since
        solved = (self.entry or {}).get("solving") or self.settings or {}
        forgets = any(isinstance(one, (nn.LSTM, nn.LSTMCell)) for one in module.modules())
        for name in (*_SOLVING, _OF_LSTM) if forgets else _SOLVING:
            found = getattr(settings, name)
            written = solved.get(name, found)
            if written != found:
                return f"The checkpoint was written with {name}={written!r}; found {found!r}."
        return None


def save(checkpoint: dict[str, Any], space: TargetSpace, substitutions: Sequence[Substitution], **more: Any) -> None:
    """Add the target space to a checkpoint, and ``more`` beside it; called in all processes.

    Args:
        checkpoint: the checkpoint that Lightning is going to write.
        space: the target space.
        substitutions: how its targets stand in the optimizers.
        more: what the target space does not know of itself.
    """
    drawn = {name: getattr(space.config.reference, name) for name in _DRAWN}
    solving = {name: getattr(space.config, name) for name in (*_SOLVING, _OF_LSTM)}
    entry = space.state_dict()
    if not _storable(entry["reference"]):
        entry["reference"] = None  # of a class of its own: taken anew from the data
    checkpoint[KEY] = {**entry, "weights": fingerprints(space), "drawn": drawn, "solving": solving, **more}
    if "optimizer_states" in checkpoint and substitutions:  # none where another Trainer saves
        checkpoint["optimizer_states"] = [substitution.state_dict() for substitution in substitutions]


def _storable(value: Any) -> bool:
    """Whether ``torch.load`` with ``weights_only=True`` reads a value."""
    if isinstance(value, dict):
        return all(map(_storable, value)) and all(map(_storable, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_storable, value))
    return isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes, type(None))


def class_path(kind: type) -> str | None:
    """Where a class is imported from; ``None`` for one of a script."""
    module = kind.__module__
    if module == "__main__":
        spec = sys.modules[module].__spec__  # of what ``python -m`` runs
        module = "" if spec is None else spec.name
    return f"{module}.{kind.__qualname__}" if module and "<locals>" not in kind.__qualname__ else None
