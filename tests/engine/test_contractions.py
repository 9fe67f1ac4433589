"""Weights that einsum, tensordot, batched products and other functions of PyTorch sum products with."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_model, close, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


class Block(nn.Module):
    """A weight and perhaps a bias, applied by ``run(x, weight, bias)`` to an input (N, 4, 3), with an output (N, k)."""

    def __init__(self, run, shape, bias=0):
        super().__init__()
        self.run = run
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64) / 2)
        self.bias = nn.Parameter(torch.randn(bias, dtype=torch.float64) / 3) if bias else None

    def forward(self, x):
        return self.run(x, self.weight, self.bias).flatten(1)


def by_einsum(equation):
    return lambda x, w, b: torch.einsum(equation, x, w)


#: a call, the weight's shape, and the width of a bias
BLOCKS = {
    "to heads": (by_einsum("btd,dhk->bthk"), (3, 2, 2), 0),
    "to heads, these first": (by_einsum("btd,hdk->bhtk"), (2, 3, 2), 0),
    "of heads": (lambda x, w, b: torch.einsum("bthk,hkd->btd", x.unflatten(2, (3, 1)), w), (3, 1, 2), 0),
    "of heads, turned": (
        lambda x, w, b: torch.einsum("bthk,khd->dbt", x.unflatten(1, (2, 2)), w).movedim(0, 1),
        (3, 2, 2),
        0,
    ),
    "the weight first": (lambda x, w, b: torch.einsum("od,btd->bto", w, x), (5, 3), 0),
    "an ellipsis": (by_einsum("...d,df->...f"), (3, 5), 0),
    "no arrow": (by_einsum("btd,df"), (3, 5), 0),
    "a list": (lambda x, w, b: torch.einsum("btd , df -> btf", [x, w]), (3, 5), 0),
    "over time": (by_einsum("btd,ts->bsd"), (4, 3), 0),
    "time and features": (by_einsum("btd,tdf->bf"), (4, 3, 5), 0),
    "a head's own": (by_einsum("bhk,hkm->bhm"), (4, 3, 2), 0),
    "a head's own, permuted": (lambda x, w, b: torch.einsum("bhk,mhk->mbh", x, w).movedim(1, 0), (2, 4, 3), 0),
    "a head's own vector": (by_einsum("bhk,hk->bh"), (4, 3), 0),
    "tensordot": (lambda x, w, b: torch.tensordot(x, w, dims=1), (3, 5), 0),
    "tensordot of two": (lambda x, w, b: torch.tensordot(x, w), (4, 3, 5), 0),
    "tensordot by names": (lambda x, w, b: torch.tensordot(w, x, dims=([1], [2])).movedim(0, -1), (5, 3), 0),
    "inner": (lambda x, w, b: torch.inner(x, w), (5, 3), 0),
    "bmm": (lambda x, w, b: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), (4, 3, 2), 0),
    "bmm from the left": (lambda x, w, b: torch.bmm(w, x.permute(1, 2, 0)).permute(2, 0, 1), (4, 2, 3), 0),
    "baddbmm": (lambda x, w, b: torch.baddbmm(b.view(4, 1, 1), x.transpose(0, 1), w).transpose(0, 1), (4, 3, 2), 4),
    "baddbmm by names": (
        lambda x, w, b: torch.zeros(4, 1, 1).double().baddbmm(batch1=x.transpose(0, 1), batch2=w).transpose(0, 1),
        (4, 3, 2),
        0,
    ),
    "bmm by names": (lambda x, w, b: torch.bmm(mat2=w, input=x.transpose(0, 1)).transpose(0, 1), (4, 3, 2), 0),
    "addmm by names": (lambda x, w, b: torch.addmm(b, mat2=w, mat1=x[:, 0]), (3, 2), 2),
    "matmul by names": (lambda x, w, b: torch.matmul(input=x, other=w), (3, 5), 0),
    "of every group": (lambda x, w, b: (x.unsqueeze(2) @ w).squeeze(2), (4, 3, 2), 0),
    "for every head": (lambda x, w, b: (x.unsqueeze(1) @ w).transpose(0, 1).transpose(0, 1), (2, 3, 2), 0),
    "one for all": (lambda x, w, b: x @ w, (1, 3, 2), 0),
    "a matrix and a batch": (lambda x, w, b: torch.matmul(w, x), (5, 4), 0),
    "a view of it": (lambda x, w, b: x @ w.permute(1, 2, 0).reshape(3, 4), (2, 3, 2), 0),
    "indexed by None": (lambda x, w, b: (x @ w[None])[:], (3, 5), 0),
    "linear, a bias for two": (lambda x, w, b: functional.linear(x, w.flatten(1).T, b), (3, 5, 1), 5),
    "conv_transpose1d": (lambda x, w, b: functional.conv_transpose1d(x, w, b, 2, 1, 1), (4, 2, 3), 2),
    "conv_transpose1d in groups": (
        lambda x, w, b: functional.conv_transpose1d(x, w, groups=2, dilation=2),
        (4, 2, 2),
        0,
    ),
    "conv_transpose2d": (
        lambda x, w, b: functional.conv_transpose2d(x.unsqueeze(1), w, stride=(1, 2)),
        (1, 2, 2, 3),
        0,
    ),
    "addmm, scaled": (lambda x, w, b: torch.addmm(b, x[:, 0], w, alpha=0.5), (3, 2), 2),
    "addmm, both scaled": (lambda x, w, b: torch.addmm(x[:, 0, :2], x[:, 1], w, beta=2, alpha=-3), (3, 2), 0),
    "addmm without the sum": (lambda x, w, b: torch.addmm(b, x[:, 1], w, beta=0), (3, 2), 2),
    "baddbmm, scaled": (
        lambda x, w, b: torch.baddbmm(x.transpose(0, 1)[..., :2], x.transpose(0, 1), w, beta=0.5).transpose(0, 1),
        (4, 3, 2),
        0,
    ),
    "expanded": (lambda x, w, b: torch.bmm(x, w.expand(len(x), -1, -1)), (3, 2), 0),
    "expanded, of one": (lambda x, w, b: torch.bmm(x, w.unsqueeze(0).expand(len(x), 3, 2)), (3, 2), 0),
    "expanded, transposed": (lambda x, w, b: torch.bmm(w.t().expand(len(x), 2, 3), x.mT), (3, 2), 0),
    "expanded as": (lambda x, w, b: x @ w[None].expand_as(x[:, :3, :]), (3, 3), 0),
    "expanded for heads": (lambda x, w, b: x.unsqueeze(1) @ w.expand(len(x), 2, 3, 2), (2, 3, 2), 0),
    "repeated": (lambda x, w, b: torch.bmm(x, w.repeat(len(x), 1, 1)), (3, 2), 0),
    "expanded for an einsum": (lambda x, w, b: torch.einsum("bti,bio->bto", x, w.expand(len(x), -1, -1)), (3, 2), 0),
    "one that is expanded and scaled": (lambda x, w, b: x @ -torch.broadcast_to(w, (len(x), 3, 2)), (3, 2), 0),
    "of its precision": (lambda x, w, b: x @ w.to(x.dtype).double().contiguous().type_as(x), (3, 2), 0),
    "bilinear": (lambda x, w, b: functional.bilinear(x[:, 0], x[:, 1], w, b), (5, 3, 3), 5),
}


def network(name):
    run, shape, bias = BLOCKS[name]
    torch.manual_seed(0)
    block = Block(run, shape, bias).double()
    inputs = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Unflatten(1, (4, 3))).double()
    width = block(inputs(torch.zeros(2, 3, dtype=torch.float64))).shape[1]
    return nn.Sequential(inputs, block, nn.Tanh(), nn.Linear(width, 2)).double()


def given(count):
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("settings", [{}, {"reference": ReferenceConfig(rows=12)}, {"method": "ocu"}], ids=repr)
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_predict_finite_differences(name, settings):
    space = check_model(network(name), given(20), given(7), torch.Generator().manual_seed(0), **settings)
    assert list(space.targets) == ["0.0", "1", "3"]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_start_from_the_weights_keeps_the_function(name):
    model = network(name)
    before = model(given(7)).detach()
    TargetSpace(model, given(90), TargetSpaceConfig(init="weights"))
    assert close(model(given(7)), before, 1e-8)


@pytest.mark.parametrize("name", BLOCKS)
def test_weights_are_the_ridge_solution(name):
    """Squared misses and the ridge's penalty have no slope there, in the weight as it is applied."""
    model, settings = network(name), TargetSpaceConfig(ridge=0.3, ridge_scale="absolute", step_scale=1.0)
    space = TargetSpace(model, given(20), settings)
    layer, seen = next(layer for layer in space.layers if layer.name == "1"), []
    solve = layer.solve
    layer.solve = lambda x, targets: seen.append((x.detach(), targets.detach())) or solve(x, targets)
    random_targets(space, torch.Generator().manual_seed(0))
    x, targets = seen[0]
    values = [p.detach().requires_grad_() for p in layer.parameters]
    penalty = layer.flat(values[0]).square().sum() + sum(bias.square().sum() for bias in values[1:])
    loss = (layer.achieved(x, values) - targets).square().sum() + layer.solver.ridge * penalty
    assert all(float(gradient.abs().max()) < 1e-10 for gradient in torch.autograd.grad(loss, values))


#: calls that are not read, and the name of the function
OTHERS = {
    "an output": (
        lambda x, w: torch.bmm(x.detach(), w.detach().expand(len(x), 3, 2), out=x.new_empty(len(x), 4, 2)),
        "detach",
    ),
    "a dimension that only the expanded weight has": (lambda x, w: x[:1] @ w.expand(2, 3, 2).mean(0), "mean"),
    "outputs of an expanded weight": (lambda x, w: x[:, 0] @ w.expand(2, 3, 2)[1], "getitem"),
    "inputs that share a weight": (lambda x, w: torch.bmm(x[:, :, :2], w[:, :1].expand(len(x), 2, 2)), "bmm"),
    "an expanded weight alone": (lambda x, w: (x[:, 0] @ w.expand(5, 3, 2)).movedim(0, 1), "matmul"),
    "repeated outputs": (lambda x, w: x @ w.repeat(1, 1, 2), "repeat"),
    "of three": (lambda x, w: torch.einsum("btd,df,btf->bf", x, w[0].T.T, x[:, :, :2]), "einsum"),
    "a sum ahead": (lambda x, w: torch.einsum("btd,odk->bok", x, w), "einsum"),
    "a sum of the weight": (lambda x, w: torch.einsum("btd,odk->btd", x, w), "einsum"),
    "a product of entries": (lambda x, w: torch.einsum("btd,odk->btdk", x, w[:1]), "einsum"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_calls_stay_in_weight_space(name):
    run, used = OTHERS[name]
    torch.manual_seed(0)
    inputs = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Unflatten(1, (4, 3))).double()
    block = Block(lambda x, w, b: run(x, w), (1, 3, 2)).double()
    width = block(inputs(given(2))).shape[1]
    space = TargetSpace(nn.Sequential(inputs, block, nn.Linear(width, 2).double()), given(20))
    assert space.left == [("1", "Block", f"used by {used}")]


def applied_before(product):
    """What an einsum applies to the input is then multiplied with another weight."""
    return lambda x, p, w: torch.einsum("bti,tio->bto", x, p) + product(p, w).mean()


#: products of a weight (4, 3, 2) and another one, the shape of the latter, and the name of the function
OF_TWO = {
    "a kernel of kernels": (lambda x, p, w: functional.conv1d(x, functional.conv1d(p, w)), (4, 3, 1), "conv1d"),
    "a convolution": (applied_before(functional.conv1d), (4, 3, 1), "conv1d"),
    "a transposed convolution": (applied_before(functional.conv_transpose1d), (3, 4, 1), "conv_transpose1d"),
    "a bilinear form": (applied_before(lambda p, w: functional.bilinear(p, p, w)), (5, 2, 2), "bilinear"),
    "an einsum": (applied_before(lambda p, w: torch.einsum("tio,pio->tp", p, w)), (5, 3, 2), "einsum"),
}


@pytest.mark.parametrize("name", OF_TWO)
def test_weights_of_which_a_function_makes_a_product_stay_in_weight_space(name):
    run, shape, used = OF_TWO[name]
    torch.manual_seed(0)
    inputs = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Unflatten(1, (4, 3))).double()
    block = Block(lambda x, w, b: run(x, block.other, w), shape)
    block.other = nn.Parameter(torch.randn(4, 3, 2, dtype=torch.float64))
    width = block(inputs(given(2))).shape[1]
    space = TargetSpace(nn.Sequential(inputs, block, nn.Linear(width, 2).double()), given(20))
    assert space.left == [("1", "Block", f"used by {used}")]


#: calls of a bias (1, 5) that is added to a result, and the name of the function
ADDED = {
    "addmm": (lambda b, x: torch.addmm(b.bias, x[:, 0], b.weight), "addmm"),
    "a view": (lambda b, x: functional.linear(x, b.weight.T, b.bias.view(-1)), "linear"),
    "baddbmm": (lambda b, x: torch.baddbmm(b.bias[None], x[:1], b.weight[None]), "baddbmm"),
    "convolution": (lambda b, x: functional.conv1d(x.mT, b.weight.T.unsqueeze(2), b.bias.squeeze(0)), "conv1d"),
}


@pytest.mark.parametrize("name", ADDED)
def test_a_matrix_that_a_call_adds_is_left_as_used_by_it(name):
    run, used = ADDED[name]
    torch.manual_seed(0)
    block = Block(lambda x, w, b: run(block, x), (3, 5))
    block.bias = nn.Parameter(torch.randn(1, 5, dtype=torch.float64))
    space = TargetSpace(nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, (4, 3)), block).double(), given(20))
    assert space.left == [("2", "Block", f"used by {used}")]
