"""What a test registers is forgotten behind it."""

import pytest


@pytest.fixture(autouse=True)
def _own_registries(own_registries):
    pass
