"""What sharing the reference batch costs: bytes sent and time of solve and pull-back, beside a model, extrapolated.

    python benchmarks/scaling.py                          # every network with 1, 2 and 4 processes; both tables
    python benchmarks/scaling.py mlp --processes 1 2
    python benchmarks/scaling.py --processes              # the extrapolated table alone
    python benchmarks/scaling.py --matmul 15 --between 12.5 --far 30

Every process has one thread and all are on this machine, over gloo. Bytes are what a process puts into collectives in
one step, counted at torch.distributed's functions; the model's (scaling_model.py) come from the shapes alone, and every
message is compared. All processes take the same mini-batch, so that the weights' gradients are averaged already. With
more processes than cores the times are no speed-up: the processes wait for each other's cores.

The second table applies the model to GPUs. Its rates are parameters, not measurements. The defaults stand for a current
data-centre GPU: 40 TFLOP/s of float32 without TF32 (two thirds of such a GPU's peak), 8 TFLOP/s for Cholesky
factors and triangular solves, NVLink-class 300 GB/s a GPU within a node of 8, a 200 Gbit/s link (25 GB/s) a GPU between
nodes, 10 microseconds a message and 20 more between nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp, paper_cnn
from benchmarks.scaling_model import Layer, Machine, Message, extrapolated, network_messages
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

RANKS, WIDTHS, REFERENCES = (1, 8, 64), (512, 2048, 8192), (256, 1024, 4096)
_WARM = 2  # steps
#: the collectives that the package uses, and which argument a process puts into each
_COLLECTIVES = {"all_reduce": 0, "all_gather": 1, "broadcast": 0}


def norm_cnn() -> nn.Module:
    """Convolutions with batch norm."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 10))


@dataclass(frozen=True)
class Network:
    """A network and its reference batch."""

    build: Callable[[], nn.Module]
    x: tuple[int, ...]
    says: str


NETWORKS = {
    "mlp": Network(partial(mlp, 4, 784, 512, 10), (1024, 784), "784-512-512-512-10, 1,024 samples (primal)"),
    "wide": Network(partial(mlp, 3, 1024, 1024, 10), (100, 1024), "1024-1024-1024-10, 100 samples (dual)"),
    "cnn": Network(paper_cnn, (100, 3, 32, 32), "the paper's CNN, 32 x 32 x 3, 100 samples"),
    "norm": Network(norm_cnn, (100, 3, 16, 16), "CNN with 3 batch norms, 16 x 16 x 3, 100 samples"),
}


class Counter:
    """Stands before the collectives of torch.distributed and notes what a process puts into them, and how long."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seconds = 0.0
        for name, position in _COLLECTIVES.items():
            setattr(dist, name, partial(self._call, getattr(dist, name), name, position))

    def _call(self, original: Callable[..., Any], name: str, position: int, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = original(*args, **kwargs)
        self.seconds += time.perf_counter() - begin
        if dist.ReduceOp.MAX not in args:  # the comparison of the processes' parameters, rare but at the start
            self.messages.append((name, args[position].numel() * args[position].element_size()))
        return result

    def clear(self) -> None:
        """Forget what was noted."""
        self.messages, self.seconds = [], 0.0


def describe(model: nn.Module, space: TargetSpace, x: Tensor) -> list[Layer]:
    """The solved layers' shapes, with the rows of all processes."""
    places: dict[nn.Module, int] = {}
    for layer in space.layers:
        layer.module.register_forward_hook(lambda module, _, z: places.update({module: z.numel()}))
    model(x)
    found = []
    for index, layer in enumerate(space.layers):
        m, d = layer.parameters[0].shape[0], layer.parameters[0][0].numel() + (len(layer.parameters) > 1)
        held: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(held, space.targets[layer.name].numel() // m)
        rows = sum(held) if space.shards is not None else held[0]
        spots = places[layer.module] // m
        gathered = isinstance(layer.module, nn.Conv2d) and (rows < spots or rows < d)
        found.append(
            Layer(rows, d, m, max(held), spots, index == 0, index == len(space.layers) - 1, gathered),
        )
    return found


Case = tuple[str, bool]  # the network, and whether the reference batch is shared


def steps_of(name: str, shard: bool, steps: int, counter: Counter) -> dict[str, Any]:
    """One process's steps: for solve and pull-back what was sent, what the model says, and the median seconds."""
    torch.manual_seed(0)
    network, ranks = NETWORKS[name], dist.get_world_size()
    model, x, y = network.build(), torch.rand(network.x), torch.randint(10, network.x[:1])
    config = TargetSpaceConfig(reference=ReferenceConfig(size=len(x), shard=shard))
    space = TargetSpace(model, x, config, group=dist.group.WORLD)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.001)
    times: dict[str, list[tuple[float, float]]] = {"solve": [], "pullback": []}
    messages: dict[str, list[Message]] = {}

    def part(what: str, call: Callable[[], object]) -> None:
        dist.barrier()
        counter.clear()
        begin = time.perf_counter()
        call()
        times[what].append((time.perf_counter() - begin, counter.seconds))
        messages[what] = counter.messages

    for _ in range(_WARM + steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        part("pullback", space.pullback)
        optimizer.step()
        part("solve", space.solve)
    solved = {id(p) for layer in space.layers for p in layer.parameters}
    others = sum(p.numel() for p in model.parameters() if id(p) not in solved)
    norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    layers = describe(model, space, x)
    wanted = network_messages(layers, norms, others, shard) if ranks > 1 else ([], [])
    return {
        what: {
            "messages": len(messages[what]),
            "bytes": sum(size for _, size in messages[what]),
            "model": sum(size for _, size in said),
            "same": sorted(messages[what]) == sorted(said),
            "ms": 1e3 * statistics.median(total for total, _ in times[what][_WARM:]),
            "sent_ms": 1e3 * statistics.median(sent for _, sent in times[what][_WARM:]),
        }
        for what, said in zip(("solve", "pullback"), wanted, strict=True)
    }


def serve(rank: int, ranks: int, cases: list[Case], steps: int, folder: str) -> None:
    """One process: every case in turn; the first process writes down those of the slowest."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    counter = Counter()
    for name, shard in cases:
        everyone: list[Any] = [None] * ranks
        dist.all_gather_object(everyone, steps_of(name, shard, steps, counter))
        if rank == 0:
            found = {what: max((p[what] for p in everyone), key=lambda part: part["ms"]) for what in everyone[0]}
            print(f"{name}, {ranks} processes{'' if shard else ', replicated'}", file=sys.stderr, flush=True)
            with Path(folder, "found").open("a") as file:
                print(json.dumps({"network": name, "processes": ranks, "shard": shard, **found}), file=file)
    dist.barrier()
    dist.destroy_process_group()


def measure(names: list[str], ranks: int, steps: int) -> list[dict[str, Any]]:
    """Steps of the networks with so many processes."""
    cases = [(name, shard) for name in names for shard in (True, False)[: min(ranks, 2)]]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(serve, (ranks, cases, steps, folder), ranks)
        return [json.loads(line) for line in Path(folder, "found").read_text().splitlines()]


def _label(run: dict[str, Any]) -> str:
    how = "" if run["processes"] == 1 else ", shared" if run["shard"] else ", replicated"
    return f"| {run['network']} | {run['processes']}{how} | "


def _sent(part: dict[str, Any]) -> str:
    agree = "the same" if part["same"] else f"{part['model']:,}"
    return f"{part['messages']} | {part['bytes']:,} | {agree}"


def measured(runs: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown tables of bytes and of times."""
    parts = ("solve", "pullback")
    yield "| network | processes | solve: messages | bytes | model | pull-back: messages | bytes | model |"
    yield "|---" * 8 + "|"
    for run in runs:
        if run["processes"] > 1:
            yield _label(run) + " | ".join(_sent(run[what]) for what in parts) + " |"
    yield ""
    yield "| network | processes | solve, ms | of it in messages | pull-back, ms | of it in messages |"
    yield "|---" * 6 + "|"
    for run in runs:
        yield _label(run) + " | ".join(f"{run[what]['ms']:.0f} | {run[what]['sent_ms']:.1f}" for what in parts) + " |"


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4], help="default 1 2 4")
    parser.add_argument("--steps", type=int, default=15, help="timed steps, of which the median is taken (default 15)")
    parser.add_argument("--json", type=Path, help="a file for what was measured and assumed")
    for rate in fields(Machine):
        parser.add_argument(f"--{rate.name}", type=type(rate.default), default=rate.default, help="see Machine")
    args = parser.parse_args()
    names = args.networks or list(NETWORKS)
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"found {', '.join(sorted(unknown))}; expected {', '.join(NETWORKS)}.")
    machine = Machine(**{rate.name: getattr(args, rate.name) for rate in fields(Machine)})
    found = [run for ranks in args.processes for run in measure(names, ranks, args.steps)]
    runs = sorted(found, key=lambda run: names.index(run["network"]))
    if runs:
        print(f"{os.cpu_count()} cores, one thread a process; median of {args.steps} steps, of the slowest process.\n")
        print("\n".join([*measured(runs), "", *(f"- {n}: {NETWORKS[n].says}" for n in names), ""]))
    rates = ", ".join(f"{name} {value:g}" for name, value in asdict(machine).items())
    print(f"Model of one dense layer, solve and pull-back, float32: {rates}.\n")
    print("\n".join(extrapolated(machine, RANKS, WIDTHS, REFERENCES)))
    if args.json:
        args.json.write_text(json.dumps({"runs": runs, "machine": asdict(machine)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
