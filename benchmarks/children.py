"""What benchmarks of steps share: variants in processes of their own that take turns, and the options."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.cases import CASES


class Child:
    """A variant in a process of its own, as in training; it writes a line when it is ready and one for each it reads.

    Args:
        script: the benchmark, which serves the variant when it is called with ``--serve``.
        name: of the case.
        variant: which one.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
        quiet: drop what it says of warnings and errors.
    """

    def __init__(self, script: str, name: str, variant: str, device: str, threads: int, *, quiet: bool = False) -> None:
        command = [sys.executable, script, name, "--serve", variant, "--device", device, "--threads", str(threads)]
        errors = subprocess.DEVNULL if quiet else None
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        self.first = self._read()

    def ask(self, line: object = "") -> str:
        """What it answers to a line."""
        print(line, file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A variant ended with code {self.process.wait()}.")
        return line


def rounds_of(name: str, count: int, children: list[Child]) -> Iterator[int]:
    """Count rounds on standard error, then end the children."""
    for done in range(count):
        yield done
        print(f"\r{name}: round {done + 1} of {count}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    for child in children:
        child.process.kill()


def options(description: str | None, rounds: int, what: str) -> argparse.Namespace:
    """The command line of a benchmark over cases; sets the number of threads.

    Args:
        description: of the benchmark.
        rounds: the default.
        what: takes turns in a round.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds over the {what} (default {rounds})")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"found {', '.join(sorted(unknown))}; expected {', '.join(CASES)}.")
    torch.set_num_threads(given.threads)
    given.cases = given.cases or list(CASES)
    return given
