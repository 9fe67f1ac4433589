"""Step time and peak memory of target space over weight space, both measured in one run.

    python benchmarks/step.py                      # every case
    python benchmarks/step.py cnn --rounds 9

A step is forward, backward and fused Adam on one batch of 100, with a reference batch of 100. Every variant lives in a
process of its own, as in training; the processes take turns of a few steps, and a ratio is the median over rounds of
(variant / weight space) within the round, so that a machine whose speed drifts does not matter. On a CPU all processes
are started three times, since how the C library places memory makes one process faster than another. Denormals
count as zero: in weight space the text classifier's gradients are full of them at first, at ten times the time.
"kept" is a step between two untanglings alone, and its memory that of such a period; "own" is without the gradient
through later layers' inputs (cascade_gradient=False). "literal" builds every patch,
solves by torch.linalg.solve and lets autograd differentiate both passes (benchmarks/literal.py); "graphs" has
cuda_graphs. Memory is the peak of the process, and what of it came on top after the imports.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import CASES, Case
from benchmarks.children import Child, options, rounds_of
from benchmarks.literal import Literal
from ts_lightning import TargetSpace
from ts_lightning.cli.memory import process_peak

Step = Callable[[], None]

STARTS = 3
_NEVER = 10**9  # solves to the next untangling


def weight_step(case: Case, device: str) -> Step:
    """A training step in weight space."""
    x, y, _ = (t.to(device) for t in case.data())
    model = case.build().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def target_step(case: Case, device: str, rows: str, **settings: Any) -> Step:
    """A training step in target space, with these settings beside the case's."""
    x, y, reference = (t.to(device) for t in case.data())
    model = case.build().to(device)
    space = TargetSpace(model, reference, replace(case.config(rows), **settings))
    optimizer = torch.optim.Adam(space.parameters(), lr=0.001, fused=True)

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
    ridges = {layer.module_name: layer.solver.ridge for layer in space.layers}
    literal = Literal(model, space.targets, ridge=ridges, scale=config.ridge_scale, rows=sampled)
    optimizer = torch.optim.Adam(literal.targets.values(), lr=0.001, fused=True)

    def step() -> None:
        gradients = literal.gradients((reference,), lambda run: functional.cross_entropy(run(x), y))
        for name, target in literal.targets.items():
            target.grad = torch.empty_like(target).copy_(gradients[name])  # laid out as fused optimizers want it
        optimizer.step()

    return step


def variants(case: Case, device: str) -> dict[str, Callable[[], Step]]:
    """How to build each variant's step, by name; weight space first."""
    found: dict[str, Callable[[], Step]] = {"weight": lambda: weight_step(case, device)}
    for rows in case.rows:
        tag = "" if len(case.rows) == 1 else ", all rows" if rows == "all" else ", sampled rows"
        found[f"target{tag}"] = lambda rows=rows: target_step(case, device, rows)
        if rows == case.rows[0]:
            found["target, kept"] = lambda rows=rows: target_step(case, device, rows, untangle=_NEVER)
            found["target, own"] = lambda rows=rows: target_step(case, device, rows, cascade_gradient=False)
            found["target, own, kept"] = lambda rows=rows: target_step(
                case, device, rows, cascade_gradient=False, untangle=_NEVER
            )
        if device == "cuda":
            found[f"target, graphs{tag}"] = lambda rows=rows: target_step(case, device, rows, cuda_graphs=True)
        if case.literal:
            found[f"literal{tag}"] = lambda rows=rows: literal_step(case, device, rows)
    return found


def clock(step: Step, device: str, repeats: int) -> float:
    """Mean seconds of a step."""
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / repeats


def serve(case: Case, variant: str, device: str) -> None:
    """The child's side: print the peak memory of four steps, then the time of as many steps as each line asks for."""
    torch.set_flush_denormal(True)
    # one small convolution first, so that the libraries' own buffers count as imports
    torch.nn.Conv2d(1, 1, 3).to(device)(torch.rand(1, 1, 8, 8, device=device)).sum().backward()
    base = torch.cuda.memory_allocated() if device == "cuda" else process_peak()
    step = variants(case, device)[variant]()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock(step, device, 4)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else process_peak()
    print(peak / 2**20, (peak - base) / 2**20, flush=True)
    for line in sys.stdin:
        print(clock(step, device, int(line)), flush=True)


def measure(name: str, device: str, threads: int, rounds: int) -> None:
    """Print one case's table."""
    names = list(variants(CASES[name], device))
    memories: dict[str, list[list[float]]] = {variant: [] for variant in names}
    times: dict[str, list[float]] = {variant: [] for variant in names}
    starts = STARTS if device == "cpu" else 1
    for start in range(starts):
        # in processes of their own, so that no variant's allocations change another one's memory
        children = {variant: Child(__file__, name, variant, device, threads) for variant in names}
        for variant, child in children.items():
            memories[variant].append([float(value) for value in child.first.split()])
        # several in a row, as in training: the first one finds the caches full of another process's data
        repeats = max(3, int(0.05 / float(children["weight"].ask(3))))
        share = len(range(start, rounds, starts))
        for _ in rounds_of(f"{name}, start {start + 1} of {starts}", share, list(children.values())):
            for variant, child in children.items():
                times[variant].append(float(child.ask(repeats)))
    memory = {
        variant: [statistics.median(kind) for kind in zip(*found, strict=True)] for variant, found in memories.items()
    }
    print(f"\n{name}: {device}, {threads} threads, {rounds} rounds")
    heads = ["ms/step", "/ weight", "literal /", "peak MB", "/ weight", "added MB", "/ weight"]
    print(f"{'':26}" + "".join(f"{head:>10}" for head in heads))
    for variant, (peak, added) in memory.items():
        per_round = [t / w for t, w in zip(times[variant], times["weight"], strict=True)]
        literal = times.get(variant.replace("target", "literal"), []) if variant.startswith("target") else []
        faster = [a / b for a, b in zip(literal, times[variant], strict=False)]  # some cases have no literal form
        print(
            f"{variant:26}{statistics.median(times[variant]) * 1e3:10.2f}{statistics.median(per_round):10.2f}"
            f"{statistics.median(faster) if faster else float('nan'):10.2f}{peak:10.0f}"
            f"{peak / memory['weight'][0]:10.2f}{added:10.0f}{added / max(memory['weight'][1], 1):10.2f}"
        )


def main() -> None:
    """Parse the command line and measure."""
    args = options(__doc__, 9, "variants")
    torch.manual_seed(0)
    for name in args.cases:
        if args.serve:
            serve(CASES[name], args.serve, args.device)
        else:
            measure(name, args.device, args.threads, args.rounds)


if __name__ == "__main__":
    main()
