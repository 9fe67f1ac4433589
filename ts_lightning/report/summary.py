"""What is known of a run when it ends, beside its metrics and settings: ``summary.json`` in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from ts_lightning.amount import amount
from ts_lightning.errors import SettingError

FILE = "summary.json"


def spaces(space: str, until: int | None, steps: int) -> str:
    """The space of a run in words, and both where target space ended.

    Args:
        space: what was trained first, targets or weights.
        until: the steps after which training was to go on in weight space; ``None``: never.
        steps: that were made.
    """
    if space != "target" or until is None or steps <= until:
        return f"{space} space"
    return f"target space for {amount(until, 'step')}, then weight space"


@dataclass(frozen=True)
class Summary:
    """How a run went.

    Attributes:
        title: what was run, as data, network and space.
        space: what was trained, targets or weights.
        steps: optimizer steps made.
        step_seconds: the median step in seconds, until target space ended; ``None`` before any.
        seconds: the time of all steps.
        peak_memory: of training, above what the process held before it, in bytes; ``None`` where it was not measured.
        interrupted: ended by Ctrl-C.
        failed: ended by an error.
        until: the steps after which training was to go on in weight space; ``None``: never.
        later_step_seconds: the median step behind the end of target space; ``None`` where it did not end.
        extra: further lines for the table, by their label. Lines called ``repeat``, ``resume`` and ``predict`` are
            commands, which the report shows as such.
    """

    title: str
    space: Literal["target", "weight"]
    steps: int
    step_seconds: float | None
    seconds: float
    peak_memory: int | None = None
    interrupted: bool = False
    failed: bool = False
    until: int | None = None
    later_step_seconds: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """The summary in a run's folder.

        Raises:
            SettingError: there is none, or what is there is none.
        """
        file = folder / FILE
        expected = "expected the summary that a run of ts_lightning leaves when it ends"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return cls(**{name: found[name] for name in (item.name for item in fields(cls)) if name in found})
        except OSError as error:
            raise SettingError(f"'{file}': cannot be read ({error.strerror}); {expected}.") from error
        except (ValueError, TypeError) as error:
            raise SettingError(f"'{file}': {error}; {expected}.") from error

    @property
    def spaces(self) -> str:
        """Where it trained, in words."""
        return spaces(self.space, self.until, self.steps)

    def write(self, folder: Path) -> None:
        """Leave the summary in a run's folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")
