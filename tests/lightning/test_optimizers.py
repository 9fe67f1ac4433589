"""Optimizers of others: wrappers, sharpness-aware minimisation by hand, weights kept apart, groups added twice."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tests.support.fits import Lit, Plain, assert_equal, assert_solved, build, data, fit, loader
from tests.support.sam import SAM, ByHand
from ts_lightning import TargetSpaceError


class Lookahead(torch.optim.Optimizer):
    """As it is usually written: around another optimizer, without a call of the base class."""

    def __init__(self, base, early=False):
        self.base, self.count = base, 0
        self.param_groups, self.defaults, self.state = base.param_groups, base.defaults, {}
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups] if early else []

    def zero_grad(self, set_to_none=True):
        self.base.zero_grad(set_to_none)

    def state_dict(self):
        return self.base.state_dict()

    def load_state_dict(self, state):
        self.base.load_state_dict(state)

    def step(self, closure=None):
        loss = self.base.step(closure)
        self.count += 1
        for parameter in (p for group in self.param_groups for p in group["params"]):
            slow = self.state.setdefault(parameter, parameter.detach().clone())
            if self.count % 5 == 0:
                with torch.no_grad():
                    slow.lerp_(parameter, 0.5)
                    parameter.copy_(slow)
        return loss


class Around(torch.optim.Optimizer):
    """Steps another optimizer, whose groups are lists of its own."""

    def __init__(self, parameters, **options):
        parameters = list(parameters)
        self.inner = [torch.optim.Adam(parameters, **options)]
        super().__init__(parameters, options)

    def step(self, closure=None):
        loss = closure()
        self.inner[0].step()
        return loss


class Kept(torch.optim.SGD):
    """Keeps what its constructor was given; ``how`` says in what form."""

    def __init__(self, parameters, how):
        super().__init__(parameters, lr=0.1)
        given = self.param_groups[0]["params"]
        self.kept = {
            "list": lambda: list(given),
            "dictionary": lambda: {f"weight {i}": p for i, p in enumerate(given)},
            "keys": lambda: {p: torch.zeros(()) for p in given},
            "pairs": lambda: [(p, None) for p in given],
            "copies": lambda: [p.detach().clone() for p in given],
            "moments": lambda: {"first": [torch.zeros_like(p) for p in given]},
        }[how]()


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.002)


def test_an_optimizer_inside_of_another_trains_the_targets():
    models = [build(optimizer=lambda p, make=make: make(p, lr=0.002)) for make in (torch.optim.Adam, Around)]
    for model in models:
        fit(model)
    assert_equal(models[1], models[0])
    trained = [p for group in models[1].trainer.optimizers[0].inner[0].param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(t) for t in models[1].target_space_engine.targets.values()}


def test_both_get_their_weights_back(tmp_path):
    model = build(optimizer=lambda p: Around(p, lr=0.002))
    run = fit(model)
    model.target_space = None
    optimizer = run.optimizers[0]
    model.make = lambda parameters: optimizer
    fit(model, max_epochs=1)
    for each in (optimizer, *optimizer.inner):
        assert [id(p) for p in each.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_lookahead_trains_and_resumes(tmp_path):
    def make(parameters):
        return Lookahead(adam(parameters))

    model = build(optimizer=make)
    fit(model, max_epochs=10).save_checkpoint(tmp_path / "last.ckpt")
    assert sum(model.losses[-4:]) < 0.9 * sum(model.losses[:4])
    assert_solved(model)
    again = build(optimizer=make)
    fit(again, max_epochs=11, ckpt_path=tmp_path / "last.ckpt")
    moments = again.trainer.optimizers[0].base.state.values()
    assert [int(state["step"]) for state in moments] == [44] * 3


def test_copies_that_a_constructor_makes_are_refused_by_name():
    with pytest.raises(TargetSpaceError, match=r"Lookahead keeps a tensor \(\d, \d\).*attribute 'slow'.*first one"):
        fit(build(optimizer=lambda p: Lookahead(adam(p), early=True)))


@pytest.mark.parametrize("how", ["list", "dictionary", "keys", "pairs", "copies", "moments"])
def test_weights_kept_beside_the_groups_are_refused_by_name(how):
    """Stepped there, they would be solved over at once, so that nothing trained."""
    model = build(optimizer=lambda p: Kept(p, how))
    start = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TargetSpaceError, match=r"Kept keeps .*attribute 'kept'.*self\.param_groups.*target_space=None"):
        fit(model)
    assert all(map(torch.equal, start, model.parameters()))
    fit(build(Plain, optimizer=lambda p: Kept(p, how)), max_epochs=1)  # it is an optimizer


def test_sharpness_aware_minimisation_by_two_steps_equals_that_by_a_closure():
    """Weights are solved behind each of them, as the closure has it (test_gradients.py compares that with a loop)."""
    seen = []

    class Solved(ByHand):
        def on_train_batch_end(self, *args):
            assert_solved(self)
            seen.append(True)

    def make(parameters):
        return SAM(parameters, lr=0.1)

    models = [build(Lit, optimizer=make), build(Solved, optimizer=make)]
    for model in models:
        fit(model, max_epochs=2)
    assert_equal(models[1], models[0])
    assert len(seen) == 8


@pytest.mark.parametrize("whole", [True, False])
def test_solved_weights_in_a_new_group_are_left_out_and_named(whole):
    """In weight space torch refuses them, since they would be stepped twice; here they would be without effect."""

    class Adding(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                new = [] if whole else [nn.Parameter(torch.zeros(2))]
                self.trainer.optimizers[0].add_param_group({"params": [*self.net[4].parameters(), *new], "lr": 1.0})

    models = [build(kind, optimizer=adam) for kind in (Lit, Adding)]
    fit(models[0])
    with pytest.warns(UserWarning, match=r"Left out of a new parameter group: the weights of net\.4, which are solved"):
        run = fit(models[1])
    assert_equal(models[1], models[0])
    assert len(run.optimizers[0].param_groups) == (1 if whole else 2)


def test_named_parameters_resume(tmp_path):
    """From torch 2.6 on an optimizer may be given names, which its groups keep."""

    class Named(Lit):
        def configure_optimizers(self):
            return torch.optim.Adam(self.named_parameters(), lr=0.002)

    if torch.__version__ < "2.6":
        pytest.skip("optimizers take no names yet")
    fit(build(Named), max_epochs=2).save_checkpoint(tmp_path / "last.ckpt")
    models = [build(Named), build(Named)]
    fit(models[0], max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    fit(models[1], max_epochs=3)
    assert_equal(*models)
    assert float(models[0].loss(data()).detach()) < models[1].losses[0]


class Beside(Lit):
    """Two parameters of one shape that are not the module's, as weights of losses."""

    def __init__(self, **options):
        super().__init__(**options)
        self.beside = [[nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]]

    def loss(self, batch):
        first, second = self.beside[0]
        return super().loss(batch) * first + 3 * second

    def configure_optimizers(self):
        return torch.optim.Adam([*self.parameters(), *self.beside[0]], lr=0.01)


def test_parameters_beside_the_module_get_their_own_moments_back(tmp_path):
    found = []

    class Looking(Beside):
        def on_train_epoch_start(self):
            state = self.optimizers().optimizer.state
            found.append([state[p]["exp_avg"].clone() for p in self.beside[0] if state[p]])

    model = build(Looking)
    fit(model, max_epochs=2, callbacks=[ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)], enable_checkpointing=True)
    before = found[1]
    assert not torch.equal(*before)
    found.clear()
    fit(build(Looking), max_epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert all(torch.equal(*pair) for pair in zip(found[0], before, strict=True))


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.0), (0.1, 0.2)])
def test_several_learning_rates_in_a_layer_are_named(rates, recwarn):
    def groups(model):
        biases = [p for p in model.parameters() if p.dim() == 1]
        weights = [p for p in model.parameters() if p.dim() > 1]
        return [{"params": weights, "lr": rates[0]}, {"params": biases, "lr": rates[1], "weight_decay": 0.0}]

    class Groups(Lit):
        def configure_optimizers(self):
            return torch.optim.SGD(groups(self), lr=0.1)

    fit(build(Groups), max_epochs=1)
    said = [str(one.message) for one in recwarn if "several learning rates" in str(one.message)]
    assert [one.split(" have")[0] for one in said] == ["Parameters of net.0, net.2, net.4"] * (rates[0] != rates[1])


def test_validation_runs_with_the_weights_of_moved_targets():
    class Evaluated(Lit):
        """Evaluates zeros in the place of what is trained, as schedule-free optimizers evaluate an average."""

        def on_validation_start(self):
            self.kept = [p.detach().clone() for p in self.optimizers().param_groups[0]["params"]]
            for target in self.optimizers().param_groups[0]["params"]:
                target.data.zero_()

        def on_validation_end(self):
            for target, value in zip(self.optimizers().param_groups[0]["params"], self.kept, strict=True):
                target.data.copy_(value)

    models = [build(cls, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)) for cls in (Evaluated, Lit)]
    for model in models:
        fit(model, val=loader())
    assert all((out == 0).all() for out in models[0].validated)
    assert not all((out == 0).all() for out in models[1].validated)
    assert_equal(models[0], models[1])
