"""What is wrong with a command that the parser takes: names in its config files, numbers out of range, or no data."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from ts_lightning.config import TargetSpaceConfig
from ts_lightning.errors import SettingError, expect

_LOADERS = {
    "fit": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}
#: the one in C is ten times as fast, and there where PyYAML was built with it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: more than any machine has processors; torch crashes with many more
MOST_THREADS = 1024
#: what Lightning's Trainer takes without a look, and fails with later or turns round: the least, and whether it is
#: itself too small
_LEAST = {
    "accumulate_grad_batches": (1, False),
    "check_val_every_n_epoch": (1, False),
    "gradient_clip_val": (0, False),
    "log_every_n_steps": (0, False),
    "num_sanity_val_steps": (-1, False),
    "val_check_interval": (0, True),
}
#: what the Trainer's ``barebones`` refuses, and leaves out where it is not given
NOT_BARE = (
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "logger",
    "num_sanity_val_steps",
)


def check_target_space(settings: Any) -> None:
    """Refuse settings of target space that do not go together.

    Args:
        settings: as jsonargparse has read them; ``None`` for weight space.

    Raises:
        SettingError: the class of the settings does not take them.
    """
    try:
        if settings is not None:
            TargetSpaceConfig.from_dict(settings.as_dict())
    except (TypeError, ValueError) as error:
        raise SettingError(f"--target_space: {error}") from error


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the Trainer that it does not refuse itself.

    Args:
        settings: by their names, without ``trainer.``.

    Raises:
        SettingError: a number is too small.
    """
    for name, (least, strict) in _LEAST.items():
        value = settings.get(name)
        if isinstance(value, (int, float)):
            expect(f"--trainer.{name}", value, least, strict=strict)


def check_root(folder: Any) -> None:
    """Warn of a ``default_root_dir``, which the run's folder takes the place of."""
    if folder is not None:
        warnings.warn(
            f"--trainer.default_root_dir {folder}: without effect, since a run's files are in its own folder, --out.",
            stacklevel=2,
        )


def check_keys(files: Iterable[Any], known: Sequence[str]) -> None:
    """Refuse unknown names at the top of config files, and names that a file has twice.

    jsonargparse takes an empty group of any name, and the last of two.

    Args:
        files: as jsonargparse has read them; ``None`` for settings that were given in the place of a file.
        known: the names that there are.

    Raises:
        SettingError: there is another one, or one twice.
    """
    for file in files:
        settings = None if file is None else yaml.compose(file.get_content(), _LOADER)
        for mapping in _mappings(settings):
            names = [name.value for name, _ in mapping.value]
            unknown = [name for name in names if name not in known] if mapping is settings else []
            if unknown:
                near = difflib.get_close_matches(unknown[0], known, n=1)
                hint = f"expected {near[0]}" if near else f"expected one of {', '.join(known)}"
                raise SettingError(f"--config {file}: found '{unknown[0]}'; {hint}.")
            for (name, _), value in zip(mapping.value, names, strict=True):
                if isinstance(value, str) and names.count(value) > 1:
                    raise SettingError(
                        f"--config {file}, line {name.start_mark.line + 1}: found '{value}' twice in one group; "
                        f"expected it once."
                    )


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """The groups of settings in a YAML, the whole first."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def check_data(module: LightningModule, command: str) -> None:
    """Refuse a command without a data module, unless the module has the data itself.

    Args:
        module: what is trained or measured.
        command: of Lightning.

    Raises:
        SettingError: it has none.
    """
    if not is_overridden(_LOADERS[command], module, LightningModule):
        raise SettingError(
            f"--data is missing: expected the data module to use, --data package.module.Class, or a "
            f"module with {_LOADERS[command]}()."
        )
