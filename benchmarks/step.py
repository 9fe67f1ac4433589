"""Step time and peak memory of target space over weight space, both measured in one run.

    python benchmarks/step.py                      # every case
    python benchmarks/step.py cnn --rounds 9

A step is forward, backward and Adam on one batch, with a reference batch; benchmarks/cases.py has the sizes. The
variants take turns, one step each, and a ratio is the median over rounds of (variant / weight space) within the round,
so that a machine whose speed drifts does not matter. "literal" builds every patch, solves by torch.linalg.solve and
lets autograd differentiate both passes (tests/literal.py; not for recurrent layers, where it is a loop over samples and
steps). Memory is measured in a process of its own for each variant: the peak of the whole process, and what of it came
on top after the imports and the data.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import CASES, Case
from tests.literal import Literal
from ts_lightning import TargetSpace

Step = Callable[[], None]


def weight_step(case: Case, device: str) -> Step:
    """A training step in weight space."""
    x, y, _ = (t.to(device) for t in case.data())
    model = case.build().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def target_step(case: Case, device: str, rows: str) -> Step:
    """A training step in target space."""
    x, y, reference = (t.to(device) for t in case.data())
    model = case.build().to(device)
    space = TargetSpace(model, reference, case.config(rows))
    optimizer = torch.optim.Adam(space.parameters(), lr=0.001)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        space.pullback()
        optimizer.step()
        space.solve()

    return step


def literal_step(case: Case, device: str, rows: str) -> Step:
    """The same step as :func:`target_step`, written down literally."""
    x, y, reference = (t.to(device) for t in case.data())
    model = case.build().to(device)
    config = case.config(rows)
    space = TargetSpace(model, reference, config)
    sampled = {layer.name: layer.rows for layer in space.layers if layer.rows is not None}
    literal = Literal(model, space.targets, ridge=config.ridge, scale=config.ridge_scale, rows=sampled)
    optimizer = torch.optim.Adam(literal.targets.values(), lr=0.001)

    def step() -> None:
        gradients = literal.gradients((reference,), lambda run: functional.cross_entropy(run(x), y))
        for name, target in literal.targets.items():
            target.grad = gradients[name]
        optimizer.step()

    return step


def variants(case: Case, device: str) -> dict[str, Callable[[], Step]]:
    """How to build each variant's step, by name; weight space first."""
    found: dict[str, Callable[[], Step]] = {"weight": lambda: weight_step(case, device)}
    for rows in case.rows:
        tag = "" if len(case.rows) == 1 else ", all rows" if rows == "all" else ", sampled rows"
        found[f"target{tag}"] = lambda rows=rows: target_step(case, device, rows)
        if case.literal:
            found[f"literal{tag}"] = lambda rows=rows: literal_step(case, device, rows)
    return found


def clock(step: Step, device: str) -> float:
    """Seconds of one step."""
    begin = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_memory(name: str, variant: str, device: str, threads: int) -> tuple[float, float]:
    """Peak of a process that makes four steps, and what came on top of imports and data, in MB."""
    command = [sys.executable, __file__, name, "--memory-of", variant, "--device", device, "--threads", str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(out[-2]), float(out[-1])


def process_peak() -> int:
    """Bytes of this process's peak; getrusage's would count the parent's, which it is started from, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_memory(case: Case, variant: str, device: str) -> None:
    """The child's side of :func:`peak_memory`."""
    # one small convolution and matrix product first, so that the libraries' own buffers count as imports
    torch.nn.Conv2d(1, 1, 3).to(device)(torch.rand(1, 1, 8, 8, device=device)).sum().backward()
    base = torch.cuda.memory_allocated() if device == "cuda" else process_peak()
    step = variants(case, device)[variant]()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(4):
        step()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else process_peak()
    print(peak / 2**20, (peak - base) / 2**20)


def measure(name: str, device: str, threads: int, rounds: int) -> None:
    """Print one case's table."""
    case = CASES[name]
    steps = {variant: build() for variant, build in variants(case, device).items()}
    for step in steps.values():
        clock(step, device)
        clock(step, device)
    times: dict[str, list[float]] = {variant: [] for variant in steps}
    for done in range(rounds):
        for variant, step in steps.items():
            # short steps are repeated, so that a round takes at least a few milliseconds of each
            repeats = max(1, int(0.05 / max(times["weight"][0], 1e-4))) if times["weight"] else 1
            times[variant].append(statistics.fmean(clock(step, device) for _ in range(repeats)))
        print(f"\r{name}: round {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    memory = {variant: peak_memory(name, variant, device, threads) for variant in steps}
    print(f"\n{name}: {device}, {threads} threads, {rounds} rounds")
    heads = ["ms/step", "/ weight", "literal /", "peak MB", "/ weight", "added MB", "/ weight"]
    print(f"{'':26}" + "".join(f"{head:>10}" for head in heads))
    for variant in steps:
        per_round = [t / w for t, w in zip(times[variant], times["weight"], strict=True)]
        literal = times.get(variant.replace("target", "literal"), [])
        compared = literal if variant.startswith("target") else []
        faster = [a / b for a, b in zip(compared, times[variant], strict=False)]
        whole, added = memory[variant]
        print(
            f"{variant:26}{statistics.median(times[variant]) * 1e3:10.2f}{statistics.median(per_round):10.2f}"
            f"{statistics.median(faster) if faster else float('nan'):10.2f}{whole:10.0f}"
            f"{whole / memory['weight'][0]:10.2f}{added:10.0f}{added / max(memory['weight'][1], 1):10.2f}"
        )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=list(CASES), help="default: all")
    parser.add_argument("--rounds", type=int, default=9, help="rounds over the variants (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for name in args.cases:
        if args.memory_of:
            print_memory(CASES[name], args.memory_of, args.device)
        else:
            measure(name, args.device, args.threads, args.rounds)


if __name__ == "__main__":
    main()
