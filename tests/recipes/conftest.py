"""Runs of recipes draw everything, in panels that are not arranged first."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _unarranged():
    """Arranging takes as long as drawing; the tests of pictures and reports arrange."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.get_layout_engine", lambda self: None)
        yield
