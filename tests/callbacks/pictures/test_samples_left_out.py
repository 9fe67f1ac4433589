"""Samples that pictures leave out, since they have no class, and texts that are missing."""

import pytest
from torch.utils.data import IterableDataset

from tests.callbacks.pictures.test_pictures import CASES, FILES, case, examine, files
from tests.support.classifiers import Classifier, loader
from ts_lightning.errors import TargetSpaceError
from ts_lightning.pictures import WorstTexts


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_samples_without_a_class_are_left_out(kind, shape, tmp_path, monkeypatch):
    """Those of the class -100, as the cross-entropy leaves them out; such a batch ended the test."""
    monkeypatch.setattr(Classifier, "test_step", lambda self, batch, batch_idx: {"logits": self(batch[0])})
    callback, model, data = case(kind, shape)
    y = data.tensors[1]
    y[:9], y[-3] = -100, -100  # a whole batch among them
    examine(tmp_path, callback, model, loader(data))
    assert files(tmp_path) >= FILES[kind]
    assert callback._samples == int((y != -100).sum())
    y[:] = -100
    with pytest.warns(UserWarning, match=f"{kind.__name__} found no samples with a class, and writes nothing"):
        examine(tmp_path / "none", callback, model, loader(data))
    assert not (tmp_path / "none").exists()


def test_texts_beside_samples_without_a_class_are_those_of_their_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "test_step", lambda self, batch, batch_idx: {"logits": self(batch[0])})
    (shape,) = (shape for kind, shape in CASES if kind is WorstTexts)
    tables = []
    for left_out in (False, True):
        callback, model, data = case(WorstTexts, shape)
        callback.count = len(data)
        if left_out:
            data.tensors[1][::3] = -100
        examine(tmp_path, callback, model, loader(data))
        tables.append((tmp_path / "worst_texts.csv").read_text().splitlines()[1:])
    texts = data.texts
    assert sorted(tables[1]) == sorted(row for row in tables[0] if row.split(",")[0] not in texts[::3])


def test_fewer_texts_than_samples_are_refused_at_the_start(tmp_path):
    """They were missed at the end, when the table was written."""
    (shape,) = (shape for kind, shape in CASES if kind is WorstTexts)
    callback, model, data = case(WorstTexts, shape)
    data.texts = data.texts[:-2]
    with pytest.raises(TargetSpaceError, match=rf"WorstTexts found {len(data) - 2} texts for {len(data)} samples"):
        examine(tmp_path, callback, model, loader(data))


def test_a_stream_with_texts_is_refused_for_its_order(tmp_path):
    """It has no length to compare their number with."""
    (shape,) = (shape for kind, shape in CASES if kind is WorstTexts)
    callback, model, data = case(WorstTexts, shape)

    class Stream(IterableDataset):
        texts = data.texts

        def __iter__(self):
            return zip(*data.tensors, strict=True)

    with pytest.raises(TargetSpaceError, match="expected samples in the data set's order"):
        examine(tmp_path, callback, model, loader(Stream()))
