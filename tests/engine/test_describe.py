"""The line that says what is solved: samples, and what stays in weight space."""

import torch
from torch import nn

from ts_lightning import TargetSpace


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


def test_parameters_of_the_model_itself_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.net = nn.Parameter(torch.randn(4, 3)), nn.Linear(3, 2)

        def forward(self, x):
            return self.net(x + self.positions[: x.shape[1]])

    space = TargetSpace(Positions(), torch.randn(20, 4, 3))
    assert "in weight space: positions (" in space.describe()
