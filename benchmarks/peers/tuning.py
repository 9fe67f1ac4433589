"""How settings are chosen: a search along one choice after the other, the same number of trials for every contender.

The first trial has the contender's own first setting. Then the learning rate is bracketed: as long as the rate above
or below the best one has not been tried, it is next. Then each further value of each option is tried at the best
setting, and the rate is bracketed anew where one of them is better. What is tried next depends on the trials so far
alone, so that a search can be stopped and goes on, also with more trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.contender import Contender
from benchmarks.peers.results import Line, last_validation


def best(trials: Sequence[Line]) -> dict[str, Any]:
    """The setting of the best trial, of equal ones the first."""
    chosen: dict[str, Any] = max(trials, key=last_validation)["setting"]
    return chosen


def next_trial(contender: Contender, trials: Sequence[Line], budget: int) -> dict[str, Any] | None:
    """The setting to try next; None where the budget is spent, or nothing is left to try.

    Args:
        contender: whose settings.
        trials: those so far, in their order.
        budget: how many there may be; a contender without choices has none.
    """
    if not contender.tuned or len(trials) >= budget:
        return None
    if not trials:
        return contender.first
    known = [line["setting"] for line in trials]
    present = best(trials)
    place = contender.rates.index(present["lr"])
    rates = [contender.rates[i] for i in (place + 1, place - 1) if 0 <= i < len(contender.rates)]
    wanted = [{**present, "lr": rate} for rate in rates]
    wanted += [{**present, name: value} for name, values in contender.options.items() for value in values]
    return next((setting for setting in wanted if setting not in known), None)
