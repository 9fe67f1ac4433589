"""Runs of recipes draw everything, in panels that are not arranged first."""

import pytest

from tests.support.runs import unarranged


@pytest.fixture(scope="module", autouse=True)
def _unarranged():
    with pytest.MonkeyPatch.context() as patch:
        unarranged(patch)
        yield
