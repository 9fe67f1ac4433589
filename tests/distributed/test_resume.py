"""Several processes: a checkpoint goes on in any number of them; one that is killed ends the run, which resumes."""

import os
import random
import signal
import sys

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import ProcessExitedException

from tests.support.changes import Change
from tests.support.fits import assert_equal
from tests.support.kills import newest, train
from tests.support.processes import end, run
from tests.support.resuming import CONFIG, Changed, Resumable, build, every_step, fit, flat
from ts_lightning import ReferenceConfig, TargetSpaceConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


def training(folder, shard=True, ckpt_path=None, optimizer="adam", change=None):
    """Train in float64 with every step kept, in any number of processes the same; the last checkpoint's contents."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # at 0.02 a training of twelve steps magnifies rounding a thousandfold, at 0.005 it hardly does
    options = {"batch_norm": False, "dtype": torch.float64, "lr": 0.005, "optimizer": optimizer}
    model = build(Changed, seed=3 if ckpt_path else 0, **options)
    model.change = change or Change()
    # 25 samples: no number of ranks divides them
    model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=25, rows=CONFIG.reference.rows, shard=shard))
    strategy = "ddp_find_unused_parameters_true" if change else "ddp"
    several = {"strategy": strategy, "devices": ranks, "use_distributed_sampler": False} if ranks > 1 else {}
    batches = Resumable(rank=rank, ranks=ranks)
    fit(model, batches, callbacks=[every_step(folder)], ckpt_path=ckpt_path, **several)
    state = torch.load(folder / "step=12.ckpt", weights_only=True)
    found = {}
    flat("weights", state["state_dict"], found)
    flat("targets", state["target_space"]["targets"], found)
    flat("rows", state["target_space"]["rows"], found)
    flat("reference", list(state["target_space"]["reference"]), found)
    flat("optimizer", [s["target_space"]["moments"] for s in state["optimizer_states"]], found)
    return found


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By the number of ranks: a training that nobody interrupts, and where its checkpoints are."""
    found = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        found[ranks] = run(training, folder, ranks=ranks)[0], folder
    return found


def test_ranks_train_as_one_process(whole):
    assert_close(whole[2][0], whole[1][0])


@pytest.mark.parametrize(("step", "before", "after"), [(5, 2, 1), (5, 1, 2), (8, 2, 3), (4, 1, 3), (5, 2, 2)])
def test_a_checkpoint_goes_on_in_any_number_of_ranks(step, before, after, whole, tmp_path):
    expected, folder = whole[before]
    found = run(training, tmp_path, ckpt_path=folder / f"step={step}.ckpt", ranks=after)
    for other in found[1:]:
        assert_equal(other, found[0])
    if after == before:
        assert_equal(found[0], expected)
    assert_close(found[0], expected)


@pytest.mark.filterwarnings("ignore:The weights of .* were changed since the last optimizer step")
def test_a_checkpoint_goes_on_behind_frozen_and_written_layers(tmp_path):
    change = Change(("mix",), range(3, 8), ("head.1",), (4, 5))
    expected = run(training, tmp_path / "before", ranks=2, change=change)[0]
    for step, after in ((5, 2), (6, 2), (6, 1), (8, 2)):
        file = tmp_path / "before" / f"step={step}.ckpt"
        found = run(training, tmp_path / f"{step} {after}", ckpt_path=file, ranks=after, change=change)
        if after == 2:
            assert_equal(found[0], expected)
        assert_close(found[0], expected)


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_shares_go_on_as_replicas_and_replicas_as_shares(before, after, whole, tmp_path):
    run(training, tmp_path / "before", shard=before, ranks=2)
    file = tmp_path / "before" / "step=6.ckpt"
    found = run(training, tmp_path / "after", shard=after, ckpt_path=file, ranks=2)
    assert_close(found[0], whole[2][0])


@pytest.mark.parametrize("optimizer", ["target adam", "adaptive"])
def test_one_moment_of_all_targets_goes_on_in_another_number_of_ranks(optimizer, tmp_path):
    whole = run(training, tmp_path / "before", optimizer=optimizer, ranks=2)[0]
    file = tmp_path / "before" / "step=6.ckpt"
    assert_close(run(training, tmp_path / "after", optimizer=optimizer, ckpt_path=file, ranks=1)[0], whole)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(train, tmp_path_factory.mktemp("undisturbed"), ranks=2)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("i", range(2))
def test_a_killed_rank_ends_the_run_which_goes_on(killed, i, undisturbed, tmp_path):
    calls = undisturbed[killed].calls
    moment = random.Random(2 * i + killed).randrange(calls // 2, calls)
    outcomes = end(train, tmp_path, moment, killed, ranks=2)
    assert outcomes[killed].signal == signal.SIGKILL
    other = outcomes[1 - killed]
    assert other.error is not None, str(other)
    assert other.seconds - outcomes[killed].seconds < 20
    done = newest(tmp_path)
    assert done > 2
    for again, expected in zip(run(train, tmp_path, ranks=2), undisturbed, strict=True):
        # from the newest, or from the one before where that is not the last one yet
        assert len(again.losses) in (12 - done, 12 - done + 2)
        assert again.losses == expected.losses[-len(again.losses) :]
        assert_equal(again.end, expected.end)


def killed_by_its_own(folder):
    """A training whose processes Lightning starts; the second of them is killed in its sixth step."""
    model = build(batch_norm=False)

    def die():
        if model.global_step == 5 and model.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model.on_after_backward = die
    options = {"strategy": DDPStrategy(start_method="fork"), "devices": 2, "use_distributed_sampler": False}
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGKILL"):
        fit(model, callbacks=[every_step(folder)], **options)


def test_lightning_ends_a_run_whose_process_was_killed(tmp_path):
    run(killed_by_its_own, tmp_path)
    assert newest(tmp_path) == 5
