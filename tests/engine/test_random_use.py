"""Random sequences of what people do around steps: after each, weights and gradients are those of an independent solve.

The sequences are the same in every run; ``TS_LIGHTNING_RANDOM_USE=2000`` in the environment draws so many new ones.
"""

import copy
import os
import warnings

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn
from torch.nn import functional

from tests.support.dense_solve import CONFIG, LAYERS, matrix, network, solution
from ts_lightning import TargetSpace


class RandomUse(RuleBasedStateMachine):
    """One network, its target space, and an optimizer that steps by itself."""

    @initialize(momentum=st.booleans(), seed=st.integers(0, 5))
    def start(self, momentum, seed):
        self.draws = torch.Generator().manual_seed(seed)
        self.model = network()
        self.reference = self.samples(7 if seed % 2 else 4)
        self.space = TargetSpace(self.model, self.reference, CONFIG)
        make = torch.optim.SGD if momentum else torch.optim.Adam
        self.optimizer = make(self.model.parameters(), lr=0.01, **({"momentum": 0.9} if momentum else {}))
        self.attached = self.space.attach(self.optimizer)
        self.anchors = {}  # W0 by layer
        self.frozen, self.kept = set(), {}  # layers that are held since the last solve, with their weights
        self.written = {}  # weights from outside that nothing has been learned from
        self.solved = True  # whether weights are to be those of the targets
        self.saved = None

    def teardown(self):
        if hasattr(self, "attached"):
            self.attached.remove()

    def samples(self, rows):
        return torch.randn(rows, 3, generator=self.draws, dtype=torch.float64)

    def solution(self, targets):
        return solution(targets, self.reference, self.model[1], self.kept, self.anchors)

    def pull(self):
        """What a step begins with, and what of the sequence so far it settles."""
        if self.space.cascade.pulled.pending() and any(p.grad is not None for p in self.weights()):
            self.space.cascade.pulled.pull_pending()
            adopted = bool(self.written)
            self.anchors.update(self.written)
            self.written = {}
            if adopted or not self.solved:  # around written weights, or for the norm's new parameters
                fresh, self.solved = self.steady, True
                self.settle_held()
                self.fresh = fresh
        self.check_gradients()

    def weights(self):
        return [p for name in LAYERS for p in self.model.get_submodule(name).parameters()]

    def check_gradients(self):
        """The targets' gradients are those of the weights' gradients, by autograd through the dense solve."""
        if self.written or not self.fresh:
            return
        targets = {n: t.detach().clone().requires_grad_() for n, t in self.space.targets.items()}
        solution = self.solution(targets)
        arrived = [
            (solution[name], torch.cat([module.weight.grad, module.bias.grad.unsqueeze(1)], 1).mT)
            for name in LAYERS
            if name not in self.kept and (module := self.model.get_submodule(name)).weight.grad is not None
        ]
        total = sum((w * g).sum() for w, g in arrived)
        if not arrived or not total.requires_grad:
            return
        expected = torch.autograd.grad(total, list(targets.values()), allow_unused=True)
        size = max(float(g.norm()) for g in expected if g is not None)
        for (name, target), gradient in zip(self.space.targets.items(), expected, strict=True):
            if target.requires_grad and name not in self.kept:
                # none where nothing arrived on this layer's weights or on any behind it
                found, gradient = (torch.zeros_like(target) if g is None else g for g in (target.grad, gradient))
                assert float((found - gradient).norm()) <= 1e-8 * size + 1e-14, name

    fresh = False  # whether what is on the weights is pulled back through the present solution
    steady = True  # whether no layer was frozen or thawed since the last solve

    @rule(rows=st.integers(1, 6))
    def backward(self, rows):
        if not self.solved:
            self.space.stepping.prepare()
            if not self.written:  # which are kept as they are until something is learned from them
                self.solved = True
                self.settle_held()
        x = self.samples(rows)
        functional.cross_entropy(self.model(x), torch.arange(rows) % 2).backward()
        self.fresh = self.steady

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none):
        self.optimizer.zero_grad(set_to_none)  # which solves for moved targets alone, and not for a norm
        assert all(p.grad is None for p in self.weights())

    @rule()
    def zero_grad_of_the_model(self):
        self.model.zero_grad()

    @rule()
    def read_gradients(self):
        self.pull()

    @rule(factor=st.sampled_from([0.5, 2.0]), how=st.sampled_from(["in place", "another", "clip"]))
    def change_gradients(self, factor, how):
        self.fresh = self.steady
        if how == "clip":
            nn.utils.clip_grad_norm_(self.model.parameters(), 1e-3 * factor)
            return
        for parameter in self.weights():
            if parameter.grad is not None:
                if how == "in place":
                    parameter.grad.mul_(factor)
                else:
                    parameter.grad = parameter.grad * factor

    @rule()
    def step(self):
        self.pull()
        self.optimizer.step()
        if not self.written:
            self.solved = True
            self.settle_held()

    @rule()
    def step_with_a_closure(self):
        def closure():
            self.optimizer.zero_grad()
            self.backward(4)

        self.optimizer.step(closure)
        self.anchors.update(self.written)
        self.written, self.solved = {}, True
        self.settle_held()

    def settle_held(self):
        """A solve has taken note of what is frozen."""
        self.fresh, self.steady = False, True
        for name in set(self.kept) - self.frozen:
            self.anchors[name] = self.kept.pop(name)
        for name in self.frozen - set(self.kept):
            self.kept[name] = matrix(self.model.get_submodule(name)).detach().clone()

    @rule(name=st.sampled_from(LAYERS), way=st.sampled_from(["copy", "data"]))
    def write_weights(self, name, way):
        module = self.model.get_submodule(name)
        if name in self.kept or name in self.frozen:
            return
        with torch.no_grad():
            value = module.weight * 0.9 + 0.01
            if way == "copy":
                module.weight.copy_(value)
            else:
                module.weight.data = value
        self.written[name] = matrix(module).detach().clone()

    @rule(name=st.sampled_from(LAYERS))
    def freeze(self, name):
        if len(self.frozen) < 2 and name not in self.written and not self.written:
            self.model.get_submodule(name).requires_grad_(False)
            self.frozen.add(name)
            self.fresh = self.steady = False

    @precondition(lambda self: bool(self.frozen))
    @rule(data=st.data())
    def thaw(self, data):
        name = data.draw(st.sampled_from(sorted(self.frozen)))
        self.model.get_submodule(name).requires_grad_(True)
        self.frozen.discard(name)
        self.fresh = self.steady = False

    @rule(sign=st.sampled_from([-1.0, 1.0]))
    def change_the_norm(self, sign):
        with torch.no_grad():
            self.model[1].weight.add_(0.01 * sign)
        self.solved = self.fresh = False

    @rule(name=st.sampled_from(LAYERS))
    def toggle(self, name):
        target = self.space.targets[name]
        target.requires_grad_(False)
        self.space.follow()
        target.requires_grad_(True)
        self.space.follow()

    @rule()
    def validate(self):
        self.model.eval()
        with torch.inference_mode():
            self.model(self.samples(3))
        self.model.train()

    @precondition(lambda self: not self.written and not self.frozen and not self.kept and self.solved)
    @rule(rows=st.integers(6, 9))
    def refresh(self, rows):
        self.optimizer.zero_grad()
        x = self.samples(rows)
        before = self.model(x).detach()
        self.space.refresh(x)
        for target in self.space.targets.values():  # whose moments start anew, as in a fit
            self.optimizer.state.pop(target, None)
        self.fresh = False
        self.reference = x
        self.anchors = {name: matrix(self.model.get_submodule(name)).detach().clone() for name in self.anchors}
        assert float((self.model(x) - before).norm()) <= 1e-6 * float(before.norm())

    @precondition(lambda self: not self.written and self.solved and not self.frozen and not self.kept)
    @rule()
    def save(self):
        self.saved = copy.deepcopy((self.space.state_dict(), self.model.state_dict(), self.anchors, self.reference))

    @precondition(lambda self: self.saved is not None and not self.frozen and not self.kept)
    @rule(anew=st.booleans())
    def load(self, anew):
        state, weights, self.anchors, reference = copy.deepcopy(self.saved)
        self.model.zero_grad()
        self.written, self.fresh = {}, False
        if anew or reference.shape != self.reference.shape or not torch.equal(reference, self.reference):
            self.attached.remove()
            self.model = network()
            self.model.load_state_dict(weights)
            self.space = TargetSpace(self.model, reference, CONFIG, state=state)
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
            self.attached = self.space.attach(self.optimizer)
        else:
            with torch.no_grad():
                self.model[1].load_state_dict({k[2:]: v for k, v in weights.items() if k.startswith("1.")})
            self.space.load_state_dict(state)
            self.space.solve()
        self.reference, self.solved = reference, True
        for name, value in self.model.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=1e-9, atol=1e-11)

    @invariant()
    def weights_are_those_of_the_targets(self):
        if not hasattr(self, "space") or self.written or not self.solved:
            return
        for name, w in self.solution({n: t.detach() for n, t in self.space.targets.items()}).items():
            found = matrix(self.model.get_submodule(name)).detach()
            assert float((found - w.detach()).norm()) <= 1e-8 * float(w.detach().norm()), name

    @invariant()
    def written_weights_stay(self):
        for name, w in getattr(self, "written", {}).items():
            assert torch.equal(matrix(self.model.get_submodule(name)).detach(), w)

    @invariant()
    def held_weights_stay(self):
        for name, w in getattr(self, "kept", {}).items():
            assert torch.equal(matrix(self.model.get_submodule(name)).detach(), w)


def test_random_use():
    drawn = int(os.environ.get("TS_LIGHTNING_RANDOM_USE", 0))
    options = {"max_examples": drawn or 10, "stateful_step_count": 50, "derandomize": not drawn}
    options["phases"] = [Phase.generate]
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        RandomUse.TestCase.settings = settings(deadline=None, database=None, suppress_health_check=checks, **options)
        RandomUse.TestCase().runTest()
