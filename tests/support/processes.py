"""Functions run in processes of their own, alone or as ranks that train together; a hang ends within minutes.

Processes are forked from one that has imported everything already, so that each starts in a moment. Several ranks find
the environment that torchrun gives: ``Trainer(strategy="ddp", devices=ranks)`` in the function trains with all of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import connection, get_context
from typing import Any

#: of starting processes, for whatever starts its own
METHOD = "forkserver" if sys.platform != "win32" else "spawn"
_context = get_context(METHOD)
if sys.platform != "win32":
    _preload = ["pytest", "lightning.pytorch", "tests.conftest", "tests.support.between", "tests.support.resuming"]
    _context.set_forkserver_preload(_preload)

#: seconds; many times what any of them takes on a core of its own, since a machine may have other work to do
LONGEST = 300.0


@dataclass
class Outcome:
    """How a process ended: its ``result``, the ``error`` it raised, the ``signal`` that ended it, or that it hung."""

    result: Any = None
    error: str | None = None
    signal: int | None = None
    hung: bool = False
    seconds: float = 0.0

    def __str__(self):
        if self.hung:
            return f"hung, and was killed after {self.seconds:.0f} s"
        return f"killed by {signal.Signals(self.signal).name}" if self.signal else self.error or "ended well"


def run(function, *args, ranks=1, timeout=LONGEST, **options):
    """The results of ``function(*args, **options)`` in each of ``ranks`` processes, if all of them end well."""
    outcomes = end(function, *args, ranks=ranks, timeout=timeout, **options)
    assert all(o.error is None and not o.signal and not o.hung for o in outcomes), "\n".join(
        f"rank {rank}: {outcome}" for rank, outcome in enumerate(outcomes)
    )
    return [outcome.result for outcome in outcomes]


def end(function, *args, ranks=1, timeout=LONGEST, **options):
    """How ``function(*args, **options)`` ended in each of ``ranks`` processes, one of which may have been killed."""
    port = free_port()
    environments = [_environment(rank, ranks, port) for rank in range(ranks)]
    started, processes, receivers, outcomes = time.monotonic(), [], [], {}
    try:
        for environment in environments:
            receiver, sender = _context.Pipe(duplex=False)
            process = _context.Process(target=_child, args=(sender, environment, function, args, options))
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        waiting = dict(zip(receivers, range(ranks), strict=True))
        while waiting:
            ready = connection.wait(waiting, max(0.0, started + timeout - time.monotonic()))
            if not ready:
                break
            for receiver in ready:
                rank = waiting.pop(receiver)
                outcomes[rank] = _received(receiver, processes[rank], started)
    finally:
        for process in processes:
            process.kill()  # those that hang; the others have ended
            process.join()
    late = time.monotonic() - started
    return [outcomes.get(rank, Outcome(hung=True, seconds=late)) for rank in range(ranks)]


def _received(receiver, process, started):
    try:
        outcome = pickle.loads(receiver.recv_bytes())
    except EOFError:  # it ended without a word
        process.join()
        outcome = Outcome(signal=-process.exitcode) if process.exitcode < 0 else Outcome(error=f"{process.exitcode=}")
    outcome.seconds = time.monotonic() - started
    return outcome


def _child(sender, environment, function, args, options):
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    try:
        outcome = Outcome(result=function(*args, **options))
    except BaseException:  # Lightning leaves by SystemExit
        outcome = Outcome(error=traceback.format_exc())
    sender.send_bytes(pickle.dumps(outcome))  # tensors whole, where send() would share their memory
    sender.close()
    sys.stderr.flush()
    os._exit(0)  # a process group that has lost a member may wait for it at exit


def _environment(rank, ranks, port):
    if ranks == 1:
        return {}
    # torchrun's, by which Lightning knows that the processes are there already
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(value) for name, value in {**numbers, **where}.items()}


#: below those that the system gives to whoever asks, and another hundred for almost every worker: a port is free again
#: from here until its user listens
_ports = cycle(range(10_000 + 100 * (os.getpid() % 200), 10_100 + 100 * (os.getpid() % 200)))


def free_port():
    for port in _ports:
        with socket.socket() as found, suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as those who listen there do
            found.bind(("127.0.0.1", port))
            return port
