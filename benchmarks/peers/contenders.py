"""All contenders by name, in the order of the page."""

from __future__ import annotations

from benchmarks.peers.contender import Contender
from benchmarks.peers.peers import PEERS
from benchmarks.peers.target import ABLATIONS, ADAM, DEFAULTS, DESCENT, FAST, PERIODIC, TUNED

_OWN = (DEFAULTS, FAST, PERIODIC, TUNED, ADAM, DESCENT)
CONTENDERS: dict[str, Contender] = {one.name: one for one in (*_OWN, *ABLATIONS, *PEERS)}
