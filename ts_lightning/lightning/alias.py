"""Libraries that import ``pytorch_lightning`` get ``lightning.pytorch``, which is the same library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ts_lightning.errors import TargetSpaceError

#: packages by their other names
_PACKAGES = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}


class _Alias(MetaPathFinder, Loader):
    """Finds a package and its modules by another name."""

    def __init__(self, other: str, name: str) -> None:
        self.other, self.name = other, name

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.other and not fullname.startswith(f"{self.other}."):
            return None
        found = find_spec(self._named(fullname))
        return found and ModuleSpec(fullname, self, origin=found.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._named(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # its own, which the import has replaced

    def _named(self, fullname: str) -> str:
        return f"{self.name}{fullname.removeprefix(self.other)}"


def alias_pytorch_lightning() -> None:
    """Let ``import pytorch_lightning`` mean ``import lightning.pytorch`` from here on, in this process.

    The two are one library under two names, each with classes of its own, and ts_lightning uses ``lightning.pytorch``.
    A project of your own changes its imports. A library that imports ``pytorch_lightning`` is imported behind this
    call, and its modules are then ordinary ones for the mixin and :func:`~ts_lightning.convert`. ``lightning_fabric``
    is ``lightning.fabric`` then. The library gets the version of ``lightning``. A second call does nothing.

    Raises:
        TargetSpaceError: one of them was imported before, and is in use under its own name.

    Examples:
        In the first lines of a script:

        >>> import ts_lightning
        >>> ts_lightning.alias_pytorch_lightning()  # doctest: +SKIP
        >>> from library import Forecaster  # which imports pytorch_lightning  # doctest: +SKIP
        >>> model = ts_lightning.convert(Forecaster())  # doctest: +SKIP
    """
    if any(isinstance(finder, _Alias) for finder in sys.meta_path):
        return
    imported = [other for other in _PACKAGES if other in sys.modules]
    if imported:
        raise TargetSpaceError(
            f"alias_pytorch_lightning: {' and '.join(imported)} {'was' if len(imported) == 1 else 'were'} imported "
            f"before. Call it first, ahead of the libraries that import {'it' if len(imported) == 1 else 'them'}."
        )
    sys.meta_path[:0] = [_Alias(other, name) for other, name in _PACKAGES.items()]
