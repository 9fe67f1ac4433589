"""A training process is killed at random moments and started again: it ends as if nothing had happened, bit for bit."""

import random
import signal
import sys

import pytest

from tests.support.fits import assert_equal
from tests.support.kills import newest, train, train_across_file_systems
from tests.support.processes import end, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The training that nobody interrupts."""
    training = run(train, tmp_path_factory.mktemp("whole"))[0]
    assert len(training.losses) == 2 * len(training.saving) == 12
    assert {name for _, name in training.on_files} >= {"open", "write", "rename", "remove"}
    return training


def moments(training, kind, number):
    """So many calls of a training, in the order that they are made in."""
    saving = [call for calls in training.saving for call in calls]
    if kind == "saving":
        among = saving
    elif kind == "on files":
        among = [call for call, _ in training.on_files]
    else:
        among = sorted(set(range(1, training.calls)) - set(saving))
    # one of each part of the training
    return [
        random.Random(i).choice(among[i * len(among) // number : (i + 1) * len(among) // number]) for i in range(number)
    ]


def killed(folder, moment, function=train, **options):
    outcome = end(function, folder, moment, **options)[0]
    assert outcome.signal == signal.SIGKILL, outcome


KINDS = {"training": 8, "saving": 6, "on files": 8}


@pytest.mark.parametrize(("kind", "i"), [(kind, i) for kind, number in KINDS.items() for i in range(number)])
def test_killed_at_a_moment_and_started_again(kind, i, whole, tmp_path):
    killed(tmp_path, moments(whole, kind, KINDS[kind])[i])
    done = newest(tmp_path)
    again = run(train, tmp_path)[0]
    assert_equal(again.end, whole.end)
    # from the newest, or from the one before where that is not the last one yet
    assert len(again.losses) in (12 - done, 12 - done + 2)
    assert again.losses == whole.losses[-len(again.losses) :]


def test_killed_twice(whole, tmp_path):
    steps = []
    # three: after a checkpoint of an epoch's last batch, Lightning counts epochs wrong in those that follow
    for _ in range(2):
        killed(tmp_path, whole.calls // 2, every=3)
        steps.append(newest(tmp_path))
    assert 0 < steps[0] < steps[1] < 12
    again = run(train, tmp_path, every=3)[0]
    assert len(again.losses) < 12
    assert_equal(again.end, whole.end)


def test_where_a_checkpoint_is_broken_the_one_before_is_whole(whole, tmp_path):
    """Where TMPDIR is on another file system, a checkpoint is copied to its place, and that can be interrupted."""
    killed(tmp_path, 6, train_across_file_systems)
    broken = end(train, tmp_path)[0]
    assert "strategy.load_checkpoint(" in broken.error, broken
    again = run(train, tmp_path, ckpt_path=tmp_path / "step=6.ckpt")[0]
    assert len(again.losses) == 6
    assert_equal(again.end, whole.end)
