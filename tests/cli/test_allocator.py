"""Freed memory: programs keep it."""

import os
import platform
import subprocess
import sys

import pytest

from ts_lightning.cli import allocator

# the page faults of ten blocks of 40 MB, each freed before the next, once memory has found its places
FAULTS = """
import resource, runpy
{make}
runpy.run_path({path!r})['keep_freed_memory']()
for _ in range(20): make()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(10): make()
print(faults() - before)
"""
TENSOR = "import torch; make = lambda: torch.ones(10_000_000)"
BYTES = "make = lambda: b'1' * 40_000_000"
PAGES = 40_000_000 // 4096


def faults(make, **environment):
    code = FAULTS.format(make=make, path=allocator.__file__)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    found = subprocess.run([sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are glibc's")
def test_a_program_does_not_map_its_tensors_anew():
    assert faults(TENSOR) < PAGES
    # what the environment says stays; without torch, whose import takes longer than all else
    assert faults(BYTES) < PAGES
    given = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    assert faults(BYTES, **given) > 9 * PAGES
    assert faults(BYTES, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=65536") > 9 * PAGES
