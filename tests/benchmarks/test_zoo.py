"""Models of many styles convert by default, train, keep their function, and have exact gradients."""

import pytest

from benchmarks.zoo import gradients, own_language, own_others
from benchmarks.zoo.__main__ import CHANGE
from benchmarks.zoo.check import check, gradient_error

MODELS = {**own_language.MODELS, **own_others.MODELS}

#: of the parameters, at least
SHARES = {
    "Swin": 0.9,
    "GPT-2": 0.9,
    "GCN": 0.9,
    "GAT": 0.9,
    "SAGE": 0.9,
    "U-Net": 0.9,
    "DCGAN": 0.9,
    "T5": 0.7,
    "cells in a loop": 1.0,
    "experts": 1.0,
    "equalised rates": 1.0,
    "heads by einsum": 0.7,
    "routed experts": 0.2,
}
#: why weights of each are left, but for tables of words
LEFT = {
    "GAT": {"used by mul"},
    "GPT-2": {"tied to words.weight"},
    "Mamba": {"used by exp"},
    "Swin": {"used by add"},
    "ALBERT": {"its first use lacks inputs of later ones"},
    "routed experts": {"its rows depend on weights"},
    "standardised weights": {"used by mean, sub, std"},
    "weight norm": {"parametrized weight"},
}


@pytest.mark.parametrize("name", MODELS)
def test_it_converts_by_default_trains_and_keeps_its_function(name):
    found = check(MODELS[name])
    assert found.good(CHANGE), (found.losses, found.changes)
    assert found.share >= SHARES.get(name, 0.3)
    assert {reason for _, reason in found.left if reason != "a table"} == LEFT.get(name, set())


@pytest.mark.parametrize("name", MODELS)
def test_its_gradients_predict_finite_differences(name):
    assert gradient_error(MODELS[name]) < 1e-6


def test_the_command_for_gradients_of_library_models(monkeypatch, capsys):
    """It tells an error above the bound from one below it; the models themselves take the libraries, and a minute."""
    chosen = {key: kind for key, kind in gradients.CHOSEN.items() if key[0] == "own"}
    assert len(gradients.CHOSEN) - len(chosen) >= 10
    monkeypatch.setattr(gradients, "CHOSEN", chosen)
    made = [("own", name, own_others.MODELS[name]) for _, name in chosen]
    monkeypatch.setattr(gradients, "models", lambda: iter(made))
    assert gradients.main() == 0
    monkeypatch.setattr(gradients, "BOUND", 0.0)
    assert gradients.main() == 1
    assert "U-Net" in capsys.readouterr().err
