"""What a test registers is forgotten behind it."""

import pytest

from ts_lightning import config
from ts_lightning.layers import registry
from ts_lightning.ridge import scales


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(scales, "_SCALES", dict(scales._SCALES))
    monkeypatch.setattr(config, "ridge_scales", list(config.ridge_scales))
