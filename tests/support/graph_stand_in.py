"""What stands for CUDA graphs on a CPU: a replay computes anew what was recorded and writes it where the recording is.

So everything but CUDA's own part is tested without a GPU: when a recording is made, of what, and when it is replayed.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch

from ts_lightning.engine import cuda_graphs as graphs
from ts_lightning.engine.beginning import Beginning


class Graph:
    """``again`` is what a replay does."""

    def replay(self):
        self.again()


@contextmanager
def _recording(graph, **options):
    yield


def install(monkeypatch):
    """Let target spaces on a CPU have graphs that are stood in for."""
    nothing = {
        "Stream": lambda device: None,
        "graph_pool_handle": lambda: None,
        "current_stream": lambda device=None: None,
        "set_stream": lambda stream: None,
        "device": lambda device: nullcontext(),
        "synchronize": lambda device: None,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, value in {"CUDAGraph": Graph, "graph": _recording, **nothing}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    record, record_pull, begin = graphs.SolveGraphs._record, graphs._Pull.record, Beginning.begin
    owner = {}

    def solve_recorded(self, run, aliased):
        record(self, run, aliased)
        owner["graphs"], owner["run"] = self, run

        def again():
            checks = []
            for layer in self._layers:
                layer.solver.deferred_checks = checks
            try:
                solved = run(None)
            finally:
                for layer in self._layers:
                    layer.solver.deferred_checks = None
            for (parameter, value), (same, static) in zip(solved, self._solved, strict=True):
                assert parameter is same
                static.data.copy_(value.detach())
            self._checks_passed.copy_(torch.stack(checks).all())

        self._solve.again = again

    def pull_recorded(self, values, trained):
        record_pull(self, values, trained)
        recorded, run = owner["graphs"], owner["run"]
        pulled = [any(value is one for one in values) for _, value in recorded._solved]
        originals = {id(stand_in): which for which, stand_in in recorded._aliases.items()}
        cascade = run.__self__
        by_id = {id(parameter): parameter for parameter in cascade.trained.parameters()}
        wanted = [by_id[originals[id(stand_in)]] for stand_in in trained]

        def again():
            anew = [value for (_, value), chosen in zip(run(None), pulled, strict=True) if chosen]
            found = torch.autograd.grad(anew, wanted, self._arriving, allow_unused=True)
            for static, gradient in zip(self._found, found, strict=True):
                assert (static is None) == (gradient is None)
                if static is not None:
                    static.copy_(gradient)

        self.graph.again = again

    def begun(self, *args):
        cascade = self._cascade
        if self._config.cuda_graphs and cascade.solution.graphs is None:
            cascade.solution.graphs = graphs.SolveGraphs(cascade.model, cascade.layers, cascade.device)
        return begin(self, *args)

    monkeypatch.setattr(graphs.SolveGraphs, "_record", solve_recorded)
    monkeypatch.setattr(graphs._Pull, "record", pull_recorded)
    monkeypatch.setattr(Beginning, "begin", begun)
