"""Optimizers as those of libraries, whose states have other forms than PyTorch's."""

import torch
from torch import nn


class Descent(torch.optim.Optimizer):
    """Gradient descent, with a step for each parameter."""

    def __init__(self, parameters, lr=0.05):
        super().__init__(parameters, {"lr": lr})

    def trained(self):
        return [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter, group in self.trained():
            parameter.sub_(self.move(parameter), alpha=group["lr"])
        return loss

    def move(self, parameter):
        return parameter.grad


class Counting(Descent):
    """Counts its steps beside the states of parameters, as MADGRAD and SPAM do."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.state["steps"], self.state["kind"] = torch.zeros(1), "counting"

    def step(self, closure=None):
        self.state["steps"] += 1
        return super().step(closure)

    def move(self, parameter):
        return parameter.grad / self.state["steps"]


class Anchored(Descent):
    """Goes half of the way to a copy that its constructor has made of each parameter, as Lookahead does."""

    def __init__(self, parameters):
        super().__init__(parameters)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["slow"] = parameter.detach().clone()

    def move(self, parameter):
        slow = self.state[parameter]["slow"]
        slow.lerp_(parameter, 0.5)
        return parameter.grad + parameter - slow


class Masked(Descent):
    """Trains the smallest numbers of each parameter, which its constructor chooses."""

    def __init__(self, parameters):
        super().__init__(parameters)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["chosen"] = parameter.detach().abs() < parameter.detach().abs().mean()

    def move(self, parameter):
        return parameter.grad * self.state[parameter]["chosen"]


class Alike(Descent):
    """One mean square for a parameter, under the name that Adam has for it, as Amos does."""

    def move(self, parameter):
        state = self.state[parameter]
        state["exp_avg_sq"] = state.get("exp_avg_sq", torch.zeros(())) * 0.9 + 0.1 * parameter.grad.square().mean()
        state["decay"] = state.get("decay", torch.zeros(())) + 1
        return parameter.grad / (state["exp_avg_sq"].sqrt() + 1) / state["decay"]


class Columns(Descent):
    """A mean square for each column of a parameter, over its rows, as SM3 has beside one for each row."""

    def move(self, parameter):
        column = parameter.grad.square().mean(0, keepdim=True)
        square = self.state[parameter].setdefault("columns", torch.zeros_like(column)).lerp_(column, 0.1)
        return parameter.grad / (square.sqrt() + 1)


class Reading(torch.optim.Adam):
    """Loads moments in their own precision from what it is given, as FlashAdamW and Adafactor do."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group, given in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], given["params"], strict=True):
                if self.state[parameter]:
                    self.state[parameter]["exp_avg"] = state_dict["state"][number]["exp_avg"].clone()


class Together(Descent):
    """One entry for all parameters, by parameter, from the first step on, as TRAC has."""

    def step(self, closure=None):
        if "start" not in self.state:
            self.state["start"] = {p: p.detach().clone() for p in self.numbers()}
        return super().step(closure)

    def move(self, parameter):
        return parameter.grad + 0.1 * (parameter - self.state["start"][parameter])

    def numbers(self):
        return {p: n for n, p in enumerate(p for group in self.param_groups for p in group["params"])}

    def state_dict(self):
        state = super().state_dict()
        if "start" in self.state:
            state["state"]["start"] = {self.numbers()[p]: value for p, value in self.state["start"].items()}
        return state

    def load_state_dict(self, state_dict):
        start = state_dict["state"].get("start")
        super().load_state_dict(state_dict)
        if start is not None:
            self.state["start"] = {p: start[n] for p, n in self.numbers().items()}


class Wrapper(torch.optim.Optimizer):
    """Writes its state in a form of its own, and does not initialise its base class, as wrappers of libraries do."""

    def __init__(self, parameters):
        self.inner = torch.optim.Adam(parameters, lr=0.05)
        self.defaults = self.inner.defaults

    @property
    def param_groups(self):
        return self.inner.param_groups

    @property
    def state(self):
        return self.inner.state

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.inner.step(closure)

    def state_dict(self):
        pairs = [(g, n, p) for g, group in enumerate(self.param_groups) for n, p in enumerate(group["params"])]
        return {
            "moments": {(g, n): dict(self.state[p]) for g, n, p in pairs},
            "rates": [g["lr"] for g in self.param_groups],
        }

    def load_state_dict(self, state_dict):
        for (g, n), moments in state_dict["moments"].items():
            parameter = self.param_groups[g]["params"][n]
            if any(value.dim() and value.shape != parameter.shape for value in moments.values()):
                raise ValueError("moments of other shapes")
            self.state[parameter] = {key: value.clone() for key, value in moments.items()}
        for group, rate in zip(self.param_groups, state_dict["rates"], strict=True):
            group["lr"] = rate


class Sharing(torch.optim.Optimizer):
    """Shares groups and state with the optimizer that it wraps, whose constructor has made some."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.inner = Anchored(self.param_groups)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def step(self, closure=None):
        return self.inner.step(closure)

    def load_state_dict(self, state_dict):
        self.inner.load_state_dict(state_dict)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state


#: those that train targets
KINDS = (Counting, Anchored, Alike, Reading, Together, Wrapper, Sharing)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
