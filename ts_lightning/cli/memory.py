"""How much memory a process has needed."""

from __future__ import annotations

import sys
from pathlib import Path


def process_peak() -> int | None:
    """Bytes of this process's peak; ``None`` where the system does not say.

    Not getrusage's on Linux, which counts the process that this one was started from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
