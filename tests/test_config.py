"""Every setting is checked when it is made."""

import dataclasses

import pytest

from ts_lightning import ReferenceConfig, TargetSpaceConfig


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ridge": 0}, ValueError, r"ridge \('auto' or a number\)=0: expected a finite number above 0"),
        ({"ridge": float("inf")}, ValueError, r"ridge .*=inf"),
        ({"ridge": "0.1"}, TypeError, r"ridge \('auto' or a number\)='0.1': expected a number, found str"),
        ({"ridge": True}, TypeError, r"ridge .*=True"),
        ({"ridge_scale": "max"}, ValueError, "ridge_scale='max': expected one of 'absolute'"),
        ({"method": "SCU"}, ValueError, "method='SCU': expected one of 'scu', 'ocu'"),
        ({"init": "zeros"}, ValueError, "init='zeros': expected one of 'auto', 'projected', 'normalised', 'weights'"),
        ({"init_std": -1}, ValueError, "init_std=-1"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias=nan: expected a finite number"),
        ({"forget_bias": None}, TypeError, "forget_bias=None: expected a number, found NoneType"),
        ({"solve_dtype": "float16"}, ValueError, "solve_dtype='float16': expected one of 'auto', 'float32', 'float64'"),
        ({"layers": "encoder"}, TypeError, r"layers='encoder': expected a list .* as in \['encoder'\]"),
        ({"exclude": "encoder"}, TypeError, "exclude='encoder'"),
        ({"reference": 100}, TypeError, "reference: expected a ReferenceConfig, found int"),
        ({"method": "ocu", "reference": ReferenceConfig(rows=9)}, ValueError, "needs targets at all rows; .*rows=9"),
    ],
)
def test_refusals(settings, error, message):
    with pytest.raises(error, match=message):
        TargetSpaceConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"size": 0}, ValueError, r"reference.size \('auto' or a number\)=0: expected at least 1"),
        ({"size": 1.5}, TypeError, r"reference.size \('auto' or a number\)=1.5: expected a whole number, found float"),
        ({"rows": -1}, ValueError, "rows .*=-1: expected at least 1"),
        ({"rows": "some"}, TypeError, "'auto', 'all' or a number"),
        ({"selection": "last"}, ValueError, "selection='last': expected one of 'first', 'random', 'balanced'"),
    ],
)
def test_refusals_of_the_reference(settings, error, message):
    with pytest.raises(error, match=message):
        ReferenceConfig(**settings)


def test_the_papers_settings():
    config = TargetSpaceConfig.paper(0.001, method="ocu", layers=["head"])
    assert (config.ridge, config.ridge_scale, config.init) == (0.001, "absolute", "projected")
    assert (config.method, config.layers, config.reference.rows) == ("ocu", ("head",), "all")


def test_settings_are_equal_whatever_they_came_from():
    config = TargetSpaceConfig(layers=["head"], exclude=("head.1",))
    assert TargetSpaceConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["layers"] == ["head"]


def test_a_change_is_checked_too():
    config = TargetSpaceConfig(ridge=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ridge = -1
    with pytest.raises(ValueError, match=r"ridge .*=-1"):
        dataclasses.replace(config, ridge=-1)
