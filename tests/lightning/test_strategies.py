"""Strategies by name, and those that cannot work."""

import importlib

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    StrategyRegistry,
)
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook

import ts_lightning.lightning.strategy
from tests.support.fits import Plain, assert_solved, build, fit
from ts_lightning import TargetSpaceDDPStrategy, TargetSpaceError, TargetSpaceStrategy
from ts_lightning.lightning.strategy import process_group


@pytest.mark.parametrize("strategy", ["target_space", "single_device", "auto", TargetSpaceStrategy()])
def test_trains(strategy):
    model = build()
    fit(model, strategy=strategy)
    assert_solved(model)


def test_registered_strategies_take_the_trainers_device():
    run = Trainer(strategy="target_space", accelerator="cpu", devices=1, logger=False)
    assert isinstance(run.strategy, TargetSpaceStrategy)
    assert run.strategy.root_device == torch.device("cpu")
    strategy = TargetSpaceStrategy()
    strategy.parallel_devices = [torch.device("meta")]
    assert strategy.root_device == torch.device("meta")
    run = Trainer(strategy="target_space_ddp", accelerator="cpu", devices=2, logger=False)
    assert isinstance(run.strategy, TargetSpaceDDPStrategy)
    assert run.strategy.parallel_devices == [torch.device("cpu")] * 2


def test_lightning_reads_the_names(monkeypatch):
    """It makes them lower case, and knows by "ddp" what cannot run on an MPS device."""
    name = TargetSpaceStrategy.strategy_name
    run = Trainer(strategy=name.upper(), accelerator="cpu", devices=1, logger=False)
    assert isinstance(run.strategy, TargetSpaceStrategy)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"strategies from the DDP family are not supported on the MPS accelerator"):
        Trainer(strategy=TargetSpaceDDPStrategy.strategy_name, logger=False)


def test_a_second_import_registers_once_more_in_the_same_place():
    module = ts_lightning.lightning.strategy
    kept, registered = dict(vars(module)), dict(StrategyRegistry)
    try:
        importlib.reload(module)
        names = [name for name in StrategyRegistry.available_strategies() if name.startswith("target_space")]
    finally:  # other tests know the first classes
        vars(module).update(kept)
        StrategyRegistry.update(registered)
    assert sorted(names) == ["target_space", "target_space_ddp"]


def test_several_devices_are_for_the_other_one():
    with pytest.raises(TargetSpaceError, match=r"one device; found 2\. Use strategy='target_space_ddp'"):
        Trainer(strategy="target_space", accelerator="cpu", devices=2, logger=False)


def test_a_module_without_the_mixin_is_refused():
    with pytest.raises(TargetSpaceError, match=r"needs a module with the mixin; found Plain"):
        fit(build(Plain), strategy="target_space")


def of_processes(count, **options):
    environment = LightningEnvironment()
    environment.set_world_size(count)
    return DDPStrategy(cluster_environment=environment, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"ddp_comm_state": PostLocalSGDState(None, None, 4), "model_averaging_period": 4},
        {"ddp_comm_hook": post_localSGD_hook},
        {"ddp_comm_hook": noop_hook},
    ],
)
def test_processes_that_step_apart_are_refused(options):
    with pytest.raises(TargetSpaceError, match=r"leaves each process with gradients of its own.*Leave out"):
        process_group(of_processes(2, **options))
    assert process_group(of_processes(1, **options)) is torch.distributed.group.WORLD


def test_gradients_may_be_compressed_on_their_way():
    assert process_group(of_processes(2, ddp_comm_hook=fp16_compress_hook)) is torch.distributed.group.WORLD


@pytest.mark.parametrize("cls", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_sharded_weights_are_refused(cls):
    with pytest.raises(TargetSpaceError, match=rf"{cls.__name__} flattens or shards the weights.*strategy='ddp'"):
        process_group(cls.__new__(cls))
