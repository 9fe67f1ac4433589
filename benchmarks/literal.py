"""Target space written down literally: explicit patches, a dense solve, and autograd through both forward passes.

Shares nothing with the package. Slow and large, which is why it is the reference of the exactness tests.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from benchmarks.literal_recurrent import Walk


def padding_of(module: nn.Module) -> list[tuple[int, int]]:
    """Entries added before and after each axis; "same" puts the odd one behind."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in module.padding]


def source(position: Tensor, size: int, mode: str) -> Tensor:
    """Which input entry stands at each position of the padded axis; ``size`` means a zero."""
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return position.clamp(0, size - 1)
    if mode == "reflect":
        position = position.abs()
        return torch.where(position >= size, 2 * (size - 1) - position, position)
    return torch.where((position < 0) | (position >= size), size, position)


def patches(x: Tensor, module: nn.Module) -> Tensor:
    """A (groups, N * positions, channels * offsets), columns in the order of ``weight[0].flatten()``."""
    axes = len(module.kernel_size)
    outputs = []
    for axis, (low, high) in enumerate(padding_of(module)):
        size, kernel = x.shape[2], module.kernel_size[axis]
        stride, dilation = module.stride[axis], module.dilation[axis]
        out = (size + low + high - dilation * (kernel - 1) - 1) // stride + 1
        place = (torch.arange(out) * stride - low).unsqueeze(1) + torch.arange(kernel) * dilation
        index = source(place, size, module.padding_mode).to(x.device)
        x = torch.cat([x, torch.zeros_like(x[:, :, :1])], 2)  # the zero that index `size` reads
        x = x[:, :, index.reshape(-1)].unflatten(2, (out, kernel)).movedim((2, 3), (-2, -1))
        outputs.append(out)
    x = x.permute(0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))  # N, positions, C, offsets
    x = x.reshape(x.shape[0] * math.prod(outputs), module.groups, -1)
    return x.transpose(0, 1)


def matrix(x: Tensor, module: nn.Module) -> Tensor:
    """A (groups, rows, d), the last column ones if the layer has a bias."""
    a = x.reshape(1, -1, x.shape[-1]) if isinstance(module, nn.Linear) else patches(x, module)
    return a if module.bias is None else torch.cat([a, torch.ones_like(a[..., :1])], -1)


def ridge_matrix(a: Tensor, ridge: float, scale: str) -> Tensor:
    """R (..., d, d) for A (..., N, d)."""
    diagonal = a.square().sum(-2)
    mean = diagonal.mean(-1, keepdim=True)
    total = (a - a.mean(-2, keepdim=True)).square().sum((-2, -1)).unsqueeze(-1)
    # what never changes still gets a millionth
    r = {
        "absolute": mean * 0 + 1,
        "variance": (total + 1e-6 * diagonal.sum(-1, keepdim=True)) / a.shape[-2],
        "mean": mean,
        "feature": diagonal + 1e-6 * mean,
    }
    return torch.diag_embed((ridge * r[scale]).expand_as(diagonal))


def ridge_solve(a: Tensor, t: Tensor, ridge: float, scale: str, noise: Tensor | float = 0.0) -> Tensor:
    """W by a dense solve, whatever the shape; ``noise`` (d,) has the share of diag(A'A) that noise adds to A'A."""
    expected = torch.diag_embed(noise * a.square().sum(-2))
    return torch.linalg.solve(a.mT @ a + ridge_matrix(a, ridge, scale) + expected, a.mT @ t)


def solve_layer(
    module: nn.Module, x: Tensor, t: Tensor, rows: Tensor | None, ridge: float, scale: str, noise: float = 0.0
):
    """Weight, bias and output; ``t`` in the shape of the output, or (rows, out).

    Noise of ``noise`` times the mean square of the inputs is on all of them, and solved for in expectation.
    """
    a = matrix(x, module)
    out = t.shape[-1] if rows is not None or isinstance(module, nn.Linear) else t.shape[1]
    if rows is None and not isinstance(module, nn.Linear):
        t = t.movedim(1, -1)
    t = t.reshape(-1, len(a), out // len(a)).transpose(0, 1)
    columns = torch.full_like(a[0, 0], noise)
    if module.bias is not None:
        columns[-1] = 0
    w = ridge_solve(a if rows is None else a[:, rows], t, ridge, scale, columns)
    z = (a @ w).transpose(0, 1).reshape(-1, out)
    if isinstance(module, nn.Linear):
        z = z.reshape(*x.shape[:-1], out)
    else:
        sizes = zip(x.shape[2:], padding_of(module), module.kernel_size, module.stride, module.dilation, strict=True)
        z = z.reshape(x.shape[0], *((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, k, s, d in sizes), out)
        z = z.movedim(-1, 1)
    bias = None if module.bias is None else w[:, -1].reshape(-1)
    weight = w if module.bias is None else w[:, :-1]
    return weight.mT.reshape(module.weight.shape), bias, z


class Literal:
    """A copy of a model whose solved weights are functions of targets that autograd differentiates.

    ``ridge`` is a number for all modules, or one by module name; ``noise`` is by module name.
    """

    def __init__(
        self, model, targets, *, ridge, scale="absolute", method="scu", rows=None, forget_bias=1.0, noise=None
    ):
        self.model = copy.deepcopy(model).train()
        self.targets = {name: t.detach().clone().requires_grad_() for name, t in targets.items()}
        self.scale, self.method, self.rows = scale, method, rows or {}
        self.forget_bias, self.noise = forget_bias, noise or {}
        self.ridge = ridge if isinstance(ridge, dict) else dict.fromkeys(self.modules(), ridge)

    def modules(self) -> dict[str, nn.Module]:
        """The modules that have targets; a recurrent one's are named after it and its layers."""
        names = {name for name, _ in self.model.named_modules()}
        owners = dict.fromkeys(name if name in names else name.rpartition(".")[0] for name in self.targets)
        return {name: self.model.get_submodule(name) for name in owners}

    def walk(self, reference, visit, project=False) -> dict[str, Tensor]:
        """Run the model on the reference batch with ``visit(name, module, x)`` giving each solved layer's output.

        Returns:
            The solved parameters of recurrent modules, which have no visit, by name.
        """
        solved: dict[str, Tensor] = {}

        def hook(name):
            return lambda module, args, output: visit(name, module, args[0])

        def recurrent(name):
            prefix = f"{name}." if name else ""

            def call(module, args, output):
                def own(values):
                    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}

                targets = own(self.targets)
                walk = Walk(
                    module, targets, lambda a, t, noise: ridge_solve(a, t, self.ridge[name], self.scale, noise),
                    method=self.method, forget=self.forget_bias, rows=own(self.rows),
                )  # fmt: skip
                result = walk(*args, project=project)
                if project:
                    self.targets.update({prefix + key: value for key, value in targets.items()})
                solved.update({prefix + key: value for key, value in walk.solved.items()})
                return result

            return call

        handles = [
            module.register_forward_hook(recurrent(name) if isinstance(module, nn.RNNBase) else hook(name))
            for name, module in self.modules().items()
        ]
        # the hooks, not dropout between the layers of a stack, say what is passed on
        self.model(*reference)
        for handle in handles:
            handle.remove()
        return solved

    def solve_layer(self, name, module, x):
        """Weight, bias and output of one layer on input ``x``."""
        rows, noise = self.rows.get(name), self.noise.get(name, 0.0)
        return solve_layer(module, x, self.targets[name], rows, self.ridge[name], self.scale, noise)

    def weights(self, *reference: Tensor) -> dict[str, Tensor]:
        """The solved parameters by name, after a pass over the reference batch."""
        solved: dict[str, Tensor] = {}

        def visit(name, module, x):
            weight, bias, z = self.solve_layer(name, module, x)
            solved[f"{name}.weight"] = weight
            if bias is not None:
                solved[f"{name}.bias"] = bias
            return self.targets[name] * 1 if self.method == "ocu" else z

        recurrent = self.walk(reference, visit)
        return {**solved, **recurrent}

    @torch.no_grad()
    def project(self, *reference: Tensor) -> None:
        """Layer by layer, put what is achieved in the targets' place, solve again, and pass that on."""

        def visit(name, module, x):
            z = self.solve_layer(name, module, x)[2]
            if (rows := self.rows.get(name)) is not None:
                z = z.movedim(1, -1) if not isinstance(module, nn.Linear) else z
                z = z.reshape(-1, z.shape[-1])[rows]
            self.targets[name] = z
            return z if self.method == "ocu" else self.solve_layer(name, module, x)[2]

        self.walk(reference, visit, project=True)

    def gradients(self, reference, loss) -> dict[str, Tensor]:
        """Gradients of ``loss(run)`` by name: of every target, and of every parameter that isn't solved."""
        solved = self.weights(*reference)
        others = {n: p for n, p in self.model.named_parameters() if n not in solved}

        def run(*inputs):
            for name, module in self.modules().items():
                if isinstance(module, nn.RNNBase):  # which has a list of its weights beside the parameters
                    prefix = f"{name}." if name else ""
                    module._flat_weights = [solved[prefix + weight] for weight in module._flat_weights_names]
            return torch.func.functional_call(self.model, solved, inputs)

        variables = {**self.targets, **others}
        with torch.backends.cudnn.flags(enabled=False):  # which would move recurrent weights in memory, in place
            found = torch.autograd.grad(loss(run), list(variables.values()), allow_unused=True)
        return {
            name: torch.zeros_like(v) if g is None else g for (name, v), g in zip(variables.items(), found, strict=True)
        }
