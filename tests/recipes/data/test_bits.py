"""Bit sequences: the answers against Python's own integers, and an order that the seed alone decides."""

import pytest
import torch

from ts_lightning.data import BitsDataModule
from ts_lightning.recipes.data.bits import ASKED, bits


def number(digits):
    """The integer with these binary digits, lowest first."""
    return sum(int(digit) << place for place, digit in enumerate(digits))


@pytest.mark.parametrize("delay", [1, 7, 60])
def test_answers_are_what_integers_say(delay):
    for task in ("recall", "xor", "adder"):
        x, y = bits(task, delay, 20, seed=3)
        assert (x.shape, x.dtype) == ((20, delay + ASKED, 1), torch.float32)
        assert (y.shape, y.dtype) == ((20, ASKED), torch.int64)
        assert set(x.flatten().tolist()) == {0, 1}
        for stream, answer in zip(x.squeeze(2).tolist(), y, strict=True):
            a, b = number(stream[delay:]), number(stream[:-delay])
            expected = {"recall": b, "xor": a ^ b, "adder": (a + b) % 2**ASKED}[task]
            assert number(answer) == expected


def test_tasks_ask_about_the_same_sequences_and_splits_differ():
    modules = {task: BitsDataModule(task, 5) for task in ("recall", "xor", "adder")}
    for data in modules.values():
        data.setup()
    recall, adder = modules["recall"], modules["adder"]
    assert torch.equal(recall.train.tensors[0], adder.train.tensors[0])
    assert (len(recall.train), len(recall.test)) == (8000, 1000)
    assert not torch.equal(recall.train.tensors[0][:1000], recall.test.tensors[0])


def test_order_of_training_data_follows_the_seed_alone():
    def first(seed):
        data = BitsDataModule(delay=2, seed=seed)
        data.setup()
        return next(iter(data.train_dataloader()))[0]

    torch.manual_seed(1)
    a = first(3)
    torch.manual_seed(2)
    assert torch.equal(a, first(3))
    assert not torch.equal(a, first(4))
    assert a.shape == (100, 2 + ASKED, 1)


@pytest.mark.parametrize(
    ("task", "delay", "message"),
    [("recall", 0, "delay: found 0; expected a number at least 1"), ("and", 3, "task: found 'and'")],
)
def test_what_is_not_there_is_refused(task, delay, message):
    with pytest.raises(ValueError, match=message):
        BitsDataModule(task, delay).setup()
