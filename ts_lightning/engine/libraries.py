"""Which Python modules are a user's own, and which are of an installed library."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path

_PATHS = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = (*_PATHS, str(Path(__file__).parents[1]))  # this package too, wherever it is


@cache
def of_user(module: str) -> bool:
    """Whether a Python module is a user's own, and none of an installed library's."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return module == "__main__" or (path is not None and not path.startswith(_LIBRARIES))
