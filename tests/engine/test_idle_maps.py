"""Maps and graphs of passes that nobody asks for are not kept, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from tests.support.untangling import made, step, weights
from ts_lightning.engine.untangle.period import Period


@pytest.mark.parametrize("family", ["dense", "rnn"])
def test_maps_that_nobody_asks_for_are_not_kept(family, monkeypatch):
    found = []
    for always in (False, True):
        model, space, x = made(family, "auto", torch.float32)
        jumps = iter([1.0] * 5 + [0.0] * 100)  # the period stays 1, and then grows
        monkeypatch.setattr(
            "ts_lightning.engine.solving.cascade.jump", lambda *_, jumps=jumps: torch.tensor(next(jumps))
        )
        if always:
            monkeypatch.setattr(Period, "idle", False)
        optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
        lasted = []
        for _ in range(40):
            step(model, space, optimizer, x)
            lasted.append((space.cascade.untangling.lasting, space.cascade.solution.kept))
        found.append((weights(space), lasted))
    (first, lasted), (second, always) = found
    for name, values in second.items():
        assert all(torch.equal(one, other) for one, other in zip(values, first[name], strict=True))
    assert [kept for _, kept in lasted] == [kept for _, kept in always]
    assert any(kept for _, kept in lasted)
    assert 10 < [lasting for lasting, _ in lasted].count(False) < 30
    assert all(lasting for lasting, _ in always)
    assert all(lasting for lasting, kept in lasted if kept)
