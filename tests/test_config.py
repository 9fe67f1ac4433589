"""Every setting is checked when it is made."""

import dataclasses
import enum
import io
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

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
        ({"ridge": np.array([1.0, 2.0])}, TypeError, "expected a number, found ndarray"),
        ({"ridge": np.float32("nan")}, ValueError, "expected a finite number above 0"),
        ({"ridge": torch.ones((), requires_grad=True)}, TypeError, "expected a number, found Tensor"),
        ({"ridge": 10**400}, ValueError, "expected a finite number above 0"),
        ({"untangle": np.array([1, 2])}, TypeError, "untangle .*: expected a whole number, found ndarray"),
        ({"method": np.array(["scu", "ocu"])}, ValueError, "method=array.*: expected one of 'scu', 'ocu'"),
        (
            {"ridge_scale": np.array(["mean", "absolute"])},
            ValueError,
            "ridge_scale=array.*: expected one of 'absolute'",
        ),
        ({"cuda_graphs": torch.tensor([True, False])}, ValueError, "cuda_graphs=.*: expected one of False, True"),
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


WAYS = {
    "np.float32": np.float32,
    "np.float64": np.float64,
    "np.array": np.array,
    "torch.tensor": torch.tensor,
    "Fraction": Fraction,
    "Decimal": Decimal,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["ridge", "init_std", "forget_bias", "step_scale"])
def test_a_number_of_any_library_is_a_number(name, way):
    value = getattr(TargetSpaceConfig(**{name: way(0.5)}), name)
    assert type(value) is float
    assert value == 0.5


@pytest.mark.parametrize("way", [np.int64, np.int32, np.array, torch.tensor])
def test_a_whole_number_of_any_library_is_one(way):
    reference = ReferenceConfig(size=way(9), rows=way(8), refresh=way(2), selection=np.str_("random"))
    config = TargetSpaceConfig(untangle=way(4), until=way(7), reference=reference)
    assert config == TargetSpaceConfig(
        untangle=4, until=7, reference=ReferenceConfig(size=9, rows=8, refresh=2, selection="random")
    )


def test_settings_are_kept_in_built_in_types_that_files_without_pickles_hold():
    """np.float64 is a float, and a checkpoint with one could not be read with weights_only=True."""
    given = TargetSpaceConfig(
        layers=np.array(["head"]),
        ridge=np.float64(2),
        ridge_scale=np.str_("mean"),
        untangle=np.str_("auto"),
        cascade_gradient=np.bool_(False),
        cuda_graphs=0,
        reference=ReferenceConfig(size=np.str_("auto"), shard=torch.tensor(True)),
    )
    file = io.BytesIO()
    torch.save(given.to_dict(), file)
    file.seek(0)
    assert TargetSpaceConfig.from_dict(torch.load(file, weights_only=True)) == given
    assert (given.cascade_gradient, given.cuda_graphs, given.reference.shard) == (False, False, True)


class Word(str, enum.Enum):
    """Whose ``str()`` is its name, as "Word.OCU"."""

    OCU, MEAN, AUTO, RANDOM, HEAD = "ocu", "mean", "auto", "random", "head"


class Count(enum.IntEnum):
    FOUR = 4


def test_members_of_enumerations_are_their_values():
    given = TargetSpaceConfig(
        layers=[Word.HEAD],
        ridge=Word.AUTO,
        ridge_scale=Word.MEAN,
        method=Word.OCU,
        untangle=Count.FOUR,
        reference=ReferenceConfig(size=Word.AUTO, selection=Word.RANDOM),
    )
    assert (given.layers, given.ridge, given.ridge_scale, given.method) == (("head",), "auto", "mean", "ocu")
    assert (given.reference.size, given.reference.selection) == ("auto", "random")
    settings = given.to_dict()
    held = [*settings["layers"], settings["ridge"], settings["ridge_scale"], settings["untangle"]]
    assert [type(value) for value in held] == [str, str, str, int]
    file = io.BytesIO()
    torch.save(settings, file)
    file.seek(0)
    assert TargetSpaceConfig.from_dict(torch.load(file, weights_only=True)) == given


def test_from_dict_takes_a_reference_of_either_form_and_refuses_what_is_no_mapping():
    reference = ReferenceConfig(size=7)
    for given in (reference, {"size": 7}):
        assert TargetSpaceConfig.from_dict({"reference": given}).reference == reference
    for given in (None, [("ridge", 1)]):
        with pytest.raises(TypeError, match="from_dict: expected a mapping of settings, found"):
            TargetSpaceConfig.from_dict(given)
