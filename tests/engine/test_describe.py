"""The line that says what is solved: samples, and what stays in weight space."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig


class Bags(nn.Module):
    """Texts one behind the other, and where each of them starts."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(9, 3), nn.Linear(3, 2)

    def forward(self, text, offsets):
        return self.head(self.words(text, offsets))


def test_the_line_counts_no_samples_where_the_tensors_do_not_say_how_many():
    space = TargetSpace(Bags(), (torch.arange(30) % 9, torch.arange(0, 30, 5)))
    assert "a reference batch whose tensors differ in length, start normalised" in space.describe()
    assert "in weight space: words (nn.EmbeddingBag: a table)." in space.describe()


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Conv1d(3, 4, 1)], ids=["dense", "convolution"])
def test_a_layer_of_which_a_part_is_frozen_is_named_whichever_part_it_is(layer, frozen):
    """With the weight frozen, nothing but a vector of it is trained."""
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4 if isinstance(layer, nn.Linear) else 5, 2))
    getattr(layer.requires_grad_(True), frozen).requires_grad_(False)
    x = torch.randn(20, 3) if isinstance(layer, nn.Linear) else torch.randn(20, 3, 5)
    kind = type(layer).__name__
    line = TargetSpace(model, x).describe()
    assert "Target space: 1 of 2 layers (" in line
    assert f"in weight space: 0 (nn.{kind}: partly frozen)." in line


def test_parameters_of_the_model_itself_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.net = nn.Parameter(torch.randn(4, 3)), nn.Linear(3, 2)

        def forward(self, x):
            return self.net(x + self.positions[: x.shape[1]])

    space = TargetSpace(Positions(), torch.randn(20, 4, 3))
    assert "in weight space: positions (" in space.describe()


@pytest.mark.parametrize(
    ("norm", "exclude", "ending"),
    [
        (nn.Identity(), [], "start normalised."),
        (nn.LayerNorm(8), [], "start normalised; in weight space: norms and other vectors."),
        (nn.LayerNorm(8), ["2"], "; in weight space: 2 (nn.Linear: excluded), norms and other vectors."),
        (nn.Identity(), ["2"], "start normalised; in weight space: 2 (nn.Linear: excluded)."),
    ],
)
def test_vectors_that_stay_in_weight_space_are_said(norm, exclude, ending):
    model = nn.Sequential(nn.Linear(3, 8), norm, nn.Linear(8, 2))
    space = TargetSpace(model, torch.randn(20, 3), TargetSpaceConfig(exclude=exclude))
    assert space.describe().endswith(ending)


def test_a_notebook_shows_the_line():
    space = TargetSpace(nn.Linear(3, 2), torch.randn(9, 3))
    assert repr(space) == space.describe()
    space.release()
    assert repr(space) == space.describe()
