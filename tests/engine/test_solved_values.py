"""What a forward makes of a solved weight behind its layer is made of the solved value, however a call takes it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_each_target, random_targets
from tests.support.middles import EXACT, batch
from ts_lightning import TargetSpace


def lerped(h, w):
    (copy,) = given = [torch.zeros_like(w)]
    torch._foreach_lerp_(given, [w], 0.5)
    return h @ copy


def interpolated(h, w):
    with torch.no_grad():
        return lerped(h, w)


def unseen(h, w):
    with torch.no_grad():
        return h @ torch.stack((w,))[0]


FORMS = {
    "positional": lambda h, w: functional.linear(h, w),
    "keyword": lambda h, w: functional.linear(h, weight=w),
    "keyword of a product": lambda h, w: torch.matmul(h, other=w),
    "list": lambda h, w: h @ torch.cat([w]),
    "tuple": lambda h, w: h @ torch.stack((w, w), 1)[:, 0],
    "list by keyword": lambda h, w: h @ torch.cat(tensors=[w, w])[:4],
    "lists in a list": lambda h, w: h @ torch.block_diag(*[w]),
    "several at once": lambda h, w: h @ torch._foreach_mul([w], 2.0)[0],
    "several in place": lerped,
    "equation": lambda h, w: torch.einsum("ni,ij->nj", h, w),
    "dropout": lambda h, w: functional.linear(h, functional.dropout(w, 0.3, False)),
    "dropout by keyword": lambda h, w: functional.linear(h, functional.dropout(input=w, p=0.3, training=False)),
    "data": lambda h, w: functional.linear(h, w.data),
    "detached": lambda h, w: functional.linear(h, w.detach()),
    "view": lambda h, w: h * w.view(-1)[:4],
    "vector": lambda h, w: h * nn.utils.parameters_to_vector([w])[:4],
    "without gradients": unseen,
    "in place without gradients": interpolated,
}
CONSTANT = {"data", "detached", "without gradients", "in place without gradients"}


class Twice(nn.Module):
    """A layer whose weight is used once more behind it."""

    def __init__(self, form):
        super().__init__()
        self.first, self.middle, self.last, self.form = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), form

    def forward(self, x):
        h = torch.tanh(self.middle(torch.tanh(self.first(x))))
        return self.last(torch.tanh(self.form(h, self.middle.weight)))


@pytest.mark.parametrize("form", FORMS)
def test_the_solved_value_stands_for_the_weight(form):
    torch.manual_seed(0)
    model = Twice(FORMS[form]).double()
    space = TargetSpace(model, batch(), EXACT)
    assert not space.left
    random_targets(space, torch.Generator().manual_seed(1))
    weights = [p.detach().clone() for p in model.parameters()]
    space.solve()
    assert all(map(torch.equal, weights, model.parameters()))  # none of them is of the step before
    if form in CONSTANT:
        return

    def loss():
        return model(batch(8, seed=2)).square().sum()

    loss().backward()
    space.pullback()
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_value_has_the_layout_of_its_parameter(layout):
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 3, 2), nn.Linear(3, 2)

        def forward(self, x):
            h = self.conv(x).mean((2, 3))
            for weight in (self.conv.weight, self.head.weight):
                seen.append((weight.clone(memory_format=torch.preserve_format).stride(), weight.stride()))
            return self.head(h)

    model = Looking().to(memory_format=layout)
    TargetSpace(model, torch.randn(20, 2, 4, 4)).solve()
    expected = [model.conv.weight.stride(), model.head.weight.stride()] * (len(seen) // 2)
    assert [own for _, own in seen] == expected
    assert [made for made, _ in seen] == expected


class Frozen(nn.Module):
    """Gradients pass through a part that is frozen for the moment, as those of a generator do."""

    def __init__(self, how):
        super().__init__()
        self.first, self.judge, self.how = nn.Linear(3, 4), nn.Linear(4, 4), how
        self.norm, self.last = nn.LayerNorm(4), nn.Linear(4, 2)

    def freeze(self, trained):
        for parameter in [*self.judge.parameters(), *self.norm.parameters()]:
            if self.how == "attribute":
                parameter.requires_grad = trained
            else:
                parameter.requires_grad_(trained)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        self.freeze(False)
        assert not self.judge.weight.requires_grad
        z = self.norm(self.judge(h))
        self.freeze(True)
        assert self.judge.weight.requires_grad
        self.freeze(False)  # behind the layer's solve, too
        if self.how != "left so":
            self.freeze(True)
        return self.last(torch.tanh(z)) + self.judge(h.detach())[:, :2]


@pytest.mark.parametrize("how", ["method", "attribute", "left so"])
def test_flags_that_a_forward_toggles_are_put_back(how):
    model = Frozen(how)
    space = TargetSpace(model, torch.randn(20, 3))
    for _ in range(2):
        assert all(parameter.requires_grad for parameter in model.parameters())
        space.solve()
    assert not space.left
    if how != "left so":
        model(torch.randn(8, 3)).square().sum().backward()
        space.pullback()
        assert all(target.grad.abs().sum() > 0 for target in space.targets.values())
