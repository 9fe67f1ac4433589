"""A process's peak is its own, and not that of the process which started it, as getrusage has it on Linux."""

import subprocess
import sys

from ts_lightning.cli import memory


def peak(statement):
    """Bytes, of a process that only runs this statement."""
    code = f"{statement}; import runpy; print(runpy.run_path({memory.__file__!r})['process_peak']())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_a_small_process_of_a_large_one_is_small():
    assert 1e6 < peak("pass") < memory.process_peak() / 2


def test_what_was_freed_counts():
    assert peak("large = bytearray(10**8); large[:] = b'x' * 10**8; del large") > 1e8
