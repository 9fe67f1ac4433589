"""Calls that sum products of a tensor and a weight over some of their dimensions, as a dense layer.

``functional.linear(x, w)``, ``x @ w``, ``torch.einsum``, ``torch.tensordot`` and their kin are read in one way: every
dimension has a label, and a label says by where it stands what the dimension is.

- In x and the weight, not in the result: an input. A is x with all inputs in its last dimension.
- In the weight and the result: an output.
- In x and the result: a place where the layer is applied.
- In all three: a group. Each has a weight of its own, as in a grouped convolution of kernel 1, which the layer then is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ts_lightning.layers.applied import Applied, unchanged
from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.layers.seen import Known, Seen

#: of each dimension; None for one of size 1 that is taken away first
Labels = Sequence[Any]

_MOST_PLACES = 4  # samples, and the three axes of a convolution


def contraction(
    known: Known, one: Any, other: Any, of_one: Labels, of_other: Labels, of_result: Labels, bias: Any = None
) -> Applied | None:
    """The layer that a sum of products is.

    Args:
        known: says what tensors are of weights.
        one: a tensor, of which one is a weight and one the input.
        other: the other one.
        of_one: the labels of its dimensions.
        of_other: the same.
        of_result: of those of the result.
        bias: what is added to the result.
    """
    seen = known(one)
    if (seen is None) == (known(other) is None):
        return None
    if seen is None:
        return contraction(known, other, one, of_other, of_one, of_result, bias)
    return _read(seen, other, list(of_one), list(of_other), list(of_result), bias)


def _read(seen: Seen, x: Tensor, of_weight: Labels, of_x: Labels, of_result: Labels, bias: Any) -> Applied | None:
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return None
    if len(of_x) != x.dim() or len(of_weight) != len(seen.shape):
        return None
    given = _Axes(of_x, x.shape)
    if seen.expanded is not None:
        wide = {label: m for label, n, m in zip(of_weight, seen.shape, seen.expanded, strict=True) if n != m}
        if any(given.sizes.get(label) != m for label, m in wide.items()):
            return None
        of_weight = [None if label in wide else label for label in of_weight]
    weight = _Axes(of_weight, seen.shape)
    sizes = given.sizes | weight.sizes
    inputs = [label for label in weight.labels if label in given.sizes and label not in of_result]
    groups = [label for label in weight.labels if label in given.sizes and label in of_result]
    outputs = [label for label in weight.labels if label not in given.sizes]
    places = [label for label in given.labels if label not in weight.sizes]
    plain = all(len(set(labels)) == len(labels) for labels in (weight.labels, given.labels, of_result))
    agree = all(weight.sizes[label] == given.sizes[label] for label in (*inputs, *groups))
    if not plain or not agree or {*groups, *outputs, *places} != set(of_result):
        return None
    if not inputs or not (outputs or groups) or (groups and len(places) > _MOST_PLACES):
        return None

    def size(labels: Labels) -> int:
        return math.prod(sizes[label] for label in labels)

    matrix = seen.arrangement.reshape(*(n for n, label in zip(seen.shape, of_weight, strict=True) if label is not None))
    matrix = matrix.permute(*map(weight.labels.index, (*groups, *outputs, *inputs)))
    axes = max(len(places) - 1, 1) if size(groups) > 1 else 0
    matrix = matrix.reshape(size((*groups, *outputs)), size(inputs), *axes * (1,))
    first, rest = (places[:1], places[1:]) if axes else (places, [])
    order = [*first, *groups, *inputs, *rest]
    shape = [*(sizes[label] for label in first), size((*groups, *inputs)), *(sizes[label] for label in rest)]
    shape += [1] * (len(shape) < len(first) + 1 + axes)
    come = [*first, *groups, *outputs, *rest]

    def take(x: Tensor) -> Tensor:
        x = x.reshape(given.shape) if len(given.shape) < x.dim() else x
        x = _permuted(x, list(map(given.labels.index, order)))
        return x.reshape(shape) if list(x.shape) != shape else x

    def give(z: Tensor) -> Tensor:
        apart = [sizes[label] for label in come]
        z = z.reshape(apart) if list(z.shape) != apart else z
        return _permuted(z, list(map(come.index, of_result)))

    geometry = None
    if axes:
        ones, zeros = (1,) * axes, (0,) * axes
        geometry = Geometry.with_padding(ones, ones, ones, zeros, size(groups))
    same = order == list(of_x) and shape == list(x.shape)
    alike = come == list(of_result) and len(outputs) == 1 and not groups
    own = alike and isinstance(bias, Tensor) and bias.shape == (size(outputs),)
    call = Applied.of(seen, matrix, x, bias if own else None, geometry=geometry, take=unchanged if same else take)
    return call.then(unchanged if alike else give, None if own else bias)


class _Axes:
    """Labels of dimensions, their sizes and the shape, without those that are taken away."""

    def __init__(self, labels: Labels, shape: Sequence[int]) -> None:
        pairs = [(label, n) for label, n in zip(labels, shape, strict=True) if label is not None]
        self.labels, self.shape, self.sizes = [label for label, _ in pairs], [n for _, n in pairs], dict(pairs)


def _permuted(x: Tensor, dims: list[int]) -> Tensor:
    return x if dims == sorted(dims) else x.permute(dims)


def _linear(known: Known, input: Any, weight: Any, bias: Any = None) -> Applied | None:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or known(weight) is None:
        return None
    places = range(input.dim() - 1)
    return contraction(known, input, weight, [*places, "in"], ["out", "in"], [*places, "out"], bias)


def _product(known: Known, input: Any, other: Any, bias: Any = None) -> Applied | None:
    """Input @ other, of which dimensions ahead of the last two are broadcast."""
    if not isinstance(input, Tensor) or not isinstance(other, Tensor) or min(input.dim(), other.dim()) == 0:
        return None
    if max(input.dim(), other.dim()) == 1 or any(known(t) is not None and t.dim() == 1 for t in (input, other)):
        return None  # of a vector
    left: list[Any] = ["row", "in"][-input.dim() :]
    right: list[Any] = ["in", "column"][: other.dim()]
    result: list[Any] = [label for label in (*left, *right) if label != "in"]
    for back in range(3, max(input.dim(), other.dim()) + 1):
        n, m = (t.shape[-back] if t.dim() >= back else None for t in (input, other))
        broadcast = n is not None and m is not None and n != m
        if n is not None:
            left.insert(0, None if broadcast and n == 1 else back)
        if m is not None:
            right.insert(0, None if broadcast and m == 1 else back)
        result.insert(0, back)
    return contraction(known, input, other, left, right, result, bias)


def _reflected(known: Known, input: Any, other: Any) -> Applied | None:
    return _product(known, other, input)


def _sum_of_product(known: Known, input: Any, one: Any, other: Any, *, beta: Any = 1, alpha: Any = 1) -> Applied | None:
    if not isinstance(alpha, (int, float)) or not isinstance(beta, (int, float)):
        return None
    scaled = known if alpha == 1 else _scaled(known, alpha)
    if beta == 1:
        return _product(scaled, one, other, input)
    call = _product(scaled, one, other)
    return call if call is None or beta == 0 else replace(call, give=lambda z: call.give(z) + beta * input)


def _scaled(known: Known, factor: float) -> Known:
    """What tensors are of weights, each times a factor."""

    def times(tensor: Any) -> Seen | None:
        seen = known(tensor)
        return None if seen is None else seen.times(factor)

    return times


def _inner(known: Known, input: Any, other: Any) -> Applied | None:
    left, right = range(input.dim() - 1), range(-other.dim(), -1)
    return contraction(known, input, other, [*left, "in"], [*right, "in"], [*left, *right])


def _tensordot(known: Known, a: Any, b: Any, dims: Any = 2, out: Any = None) -> Applied | None:
    if out is not None or isinstance(dims, Tensor):
        return None
    pairs = [range(a.dim() - dims, a.dim()), range(dims)] if isinstance(dims, int) else dims
    one, other = ([dims] if isinstance(dims, int) else list(dims) for dims in pairs)
    left, right = [("a", n) for n in range(a.dim())], [("b", n) for n in range(b.dim())]
    for n, m in zip(one, other, strict=True):
        right[m] = left[n]
    result = [label for label in (*left, *right) if (label in left) != (label in right)]
    return contraction(known, a, b, left, right, result)


def _einsum(known: Known, equation: str, *operands: Any) -> Applied | None:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(operands) != 2 or len(terms) != 2 or not all(isinstance(t, Tensor) for t in operands):
        return None
    if not arrow:
        letters = given.replace(",", "").replace(".", "")
        result = "..." * ("..." in given) + "".join(sorted(x for x in letters if letters.count(x) == 1))
    labels = [_spelled(term, t.dim()) for term, t in zip(terms, operands, strict=True)]
    most = max(sum(isinstance(label, int) for label in own) for own in labels)
    of_result = _spelled(result, most + len(result.replace("...", "")))
    return contraction(known, operands[0], operands[1], labels[0], labels[1], of_result)


def _spelled(term: str, dims: int) -> list[Any]:
    """The labels of a term of an equation; dimensions under an ellipsis count from the last one."""
    head, dots, tail = term.partition("...")
    return [*head, *(reversed(range(dims - len(head) - len(tail))) if dots else ()), *tail]


#: what reads a call, by its function
CONTRACTIONS: dict[Any, Callable[..., Applied | None]] = {
    functional.linear: _linear,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.linalg.matmul), _product),
    **dict.fromkeys((torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.mv, Tensor.mv), _product),
    Tensor.__rmatmul__: _reflected,
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), _sum_of_product),
    **dict.fromkeys((torch.inner, Tensor.inner), _inner),
    torch.tensordot: _tensordot,
    torch.einsum: _einsum,
}
