"""Compiled modules: layers keep their names, and the reference pass runs them as they were written."""

import pytest
import torch

from tests.support.fits import assert_equal, build, fit


@pytest.mark.parametrize("how", ["submodule", "in place", "module"])
def test_equals_the_module_as_it_was_written(how):
    models = [build(norm=True) for _ in range(2)]
    fit(models[0])
    model = models[1]
    if how == "submodule":
        model.net = torch.compile(model.net, backend="eager")
    elif how == "in place":
        model.net.compile(backend="eager")
    fit(torch.compile(model, backend="eager") if how == "module" else model)
    assert list(model.target_space_engine.targets) == ["net.0", "net.3", "net.5"]
    assert_equal(model, models[0])
