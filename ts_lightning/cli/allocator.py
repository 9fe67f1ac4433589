"""The C library's memory: kept when it is freed, for the next step to use."""

from __future__ import annotations

import ctypes
import os
import sys

#: glibc's options (malloc.h): how much free memory is kept, how much is taken at once, how much is mapped on its own
_OPTIONS = {"TRIM_THRESHOLD": (-1, 2**31 - 1), "TOP_PAD": (-2, 2**26), "MMAP_MAX": (-4, 0)}


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, which training needs again a moment later; elsewhere nothing changes.

    By default it gives tensors of megabytes back to the system, which hands them out again page by page, cleared:
    docs/cost.md has what that costs a step on a CPU. Options that the environment sets stay as they are.
    """
    if sys.platform != "linux" or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    for name, (option, value) in _OPTIONS.items():
        if f"MALLOC_{name}_" not in os.environ:
            mallopt(option, value)
