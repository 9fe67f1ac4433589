"""Which Python modules are a user's own, and which are of an installed library."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path

_FOLDERS = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = {*_FOLDERS, Path(__file__).parents[2]}  # this package too, wherever it is
_INSTALLED = {"site-packages", "dist-packages"}  # also those of the user's home, or beside the environment's own


@cache
def of_user(module: str) -> bool:
    """Whether a Python module is a user's own, and none of an installed library's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None:
        return module == "__main__"
    return not (_INSTALLED & set(Path(file).parts) or _LIBRARIES & set(Path(file).parents))
