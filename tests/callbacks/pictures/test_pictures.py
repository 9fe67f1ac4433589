"""The pictures' files, what stands in them, and that they cost a module nothing and change nothing in it."""

import csv
import os
import sys

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from tests.support.classifiers import Classifier, loader, samples
from tests.support.fits import trainer
from tests.support.processes import run
from ts_lightning.data import TextDataModule
from ts_lightning.errors import TargetSpaceError
from ts_lightning.pictures import ConfusionMatrix, DecisionRegions, SamplePredictions, WorstTexts

POINTS, IMAGES = (2,), (3, 5, 4)
CASES = [(DecisionRegions, POINTS), (ConfusionMatrix, POINTS), (SamplePredictions, IMAGES), (WorstTexts, IMAGES)]
FILES = {
    DecisionRegions: {"decision_regions.png", "decision_regions.svg"},
    ConfusionMatrix: {"confusion_matrix.png", "confusion_matrix.svg"},
    SamplePredictions: {"sample_predictions.png", "sample_predictions.svg"},
    WorstTexts: {"worst_texts.csv"},
}


def case(kind, shape, classes=3, **options):
    return kind(), Classifier(int(torch.tensor(shape).prod()), classes, **options), samples(*shape, classes=classes)


def examine(folder, callback, model, batches, **options):
    run = trainer(default_root_dir=folder, callbacks=[callback], **options)
    run.test(model, batches, verbose=False)
    return run


def table(folder):
    with (folder / "worst_texts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_test_leaves_the_files_in_the_folder_of_the_run(kind, shape, tmp_path):
    callback, model, data = case(kind, shape)
    examine(tmp_path, callback, model, loader(data), logger=CSVLogger(tmp_path / "logged", name="", version=""))
    assert FILES[kind] <= files(tmp_path / "logged")
    for file in FILES[kind]:
        assert (tmp_path / "logged" / file).stat().st_size > 100


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_validation_and_the_end_of_a_fit_leave_them_too(kind, shape, tmp_path):
    callback, model, data = case(kind, shape)
    run = trainer(default_root_dir=tmp_path / "validated", callbacks=[callback])
    run.validate(model, loader(data), verbose=False)
    assert files(tmp_path / "validated") == FILES[kind]
    run = trainer(default_root_dir=tmp_path / "fitted", callbacks=[callback], max_epochs=1, num_sanity_val_steps=1)
    run.fit(model, loader(data), loader(data))
    assert files(tmp_path / "fitted") == FILES[kind]
    assert callback.split == "validation"


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_no_files_come_of_a_sanity_check_alone(kind, shape, tmp_path):
    callback, model, data = case(kind, shape)
    options = {"max_steps": 1, "num_sanity_val_steps": 1, "check_val_every_n_epoch": 5}
    trainer(default_root_dir=tmp_path, callbacks=[callback], **options).fit(model, loader(data), loader(data))
    assert files(tmp_path) == set()


@pytest.mark.parametrize("hidden", [False, True])
def test_the_modules_own_logits_are_taken_where_it_calls_itself(hidden, tmp_path):
    """Without ``self(x)`` in its step, the module is called once for every batch."""
    callback, model, data = case(ConfusionMatrix, IMAGES, hidden=hidden)
    examine(tmp_path, callback, model, loader(data))
    assert model.calls == 3
    assert not model._forward_hooks
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, predicted in zip(data.tensors[1], model(data.tensors[0]).argmax(1), strict=True):
        expected[label, predicted] += 1
    assert torch.equal(callback._counts, expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_regions_show_where_the_module_answers_what(classes, tmp_path):
    """The middle of each quadrant has the colour of its class."""
    from matplotlib.figure import Figure

    from ts_lightning.callbacks.pictures.decision_regions import draw_regions
    from ts_lightning.callbacks.pictures.style import COLOURS

    model = torch.nn.Linear(2, classes)
    with torch.no_grad():
        corners = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])[:classes]
        model.weight.copy_(20 * corners)
        model.bias.zero_()
    panel = Figure().subplots()
    model.train()
    points = torch.tensor([[4.0, 4.0], [-4.0, -4.0], [-4.0, 4.0], [4.0, -4.0]])[:classes]
    right, number = draw_regions(panel, model, points, torch.arange(classes).roll(1))
    assert model.training
    assert number == classes
    assert right.tolist() == [0.0] * classes
    image = torch.from_numpy(panel.images[0].get_array().data.copy())
    left, far, low, high = panel.images[0].get_extent()
    for label, (x, y) in enumerate(points / 2):
        column, row = int((x - left) / (far - left) * 400), int((y - low) / (high - low) * 400)
        tone = torch.tensor([int(COLOURS[label][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        torch.testing.assert_close(image[row, column], 1 - 0.65 * (1 - tone), atol=0.01, rtol=0)


def test_right_and_wrong_images_are_drawn_with_their_labels(tmp_path):
    model, data = Classifier(60, 2), samples(*IMAGES, classes=2)
    model.labels = ["a cat", "a dog"]
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.copy_(torch.tensor([1.0, 0.0]))  # a cat with 73 %, whatever it is
    examine(tmp_path, SamplePredictions(count=3), model, loader(data))
    drawn = (tmp_path / "sample_predictions.svg").read_text()
    dogs = int(data.tensors[1].sum())
    assert drawn.count("a cat, 73 %") == 6
    assert drawn.count("is a dog") == 3
    assert f"classified rightly, 3 of {24 - dogs}" in drawn
    assert f"classified wrongly, 3 of {dogs}" in drawn


def test_a_matrix_has_the_labels_of_the_data_module_or_numbers(tmp_path):
    class Data(LightningDataModule):
        def test_dataloader(self):
            return loader(samples(2, classes=2))

    for labels, expected in ((["left", "right"], ["left", "right"]), (["one"], ["0", "1"])):
        Data.labels = labels
        examine(tmp_path, ConfusionMatrix(), Classifier(2, 2), Data())
        drawn = (tmp_path / "confusion_matrix.svg").read_text()
        assert all(drawn.count(f">{name}</text>") == 3 for name in expected)  # to the left, and below both panels


@pytest.mark.parametrize("classes", [2, 21, 101])
def test_a_matrix_of_many_classes_is_drawn(classes, tmp_path):
    examine(tmp_path, ConfusionMatrix(), Classifier(2, classes), loader(samples(2, classes=classes)))
    assert (tmp_path / "confusion_matrix.png").stat().st_size < 400_000


def test_the_worst_texts_have_the_largest_losses(tmp_path):
    _, model, data = case(WorstTexts, IMAGES)
    model.labels = ["zero", "one", "two"]
    examine(tmp_path, WorstTexts(count=4), model, loader(data))
    x, y = data.tensors
    shares = model(x).softmax(dim=1)
    losses = -shares[torch.arange(24), y].log()
    worst = losses.argsort(descending=True)[:4].tolist()
    rows = table(tmp_path)
    assert [row["text"] for row in rows] == [f"text {i}" for i in worst]
    assert [row["label"] for row in rows] == [model.labels[int(y[i])] for i in worst]
    assert [row["predicted"] for row in rows] == [model.labels[int(shares[i].argmax())] for i in worst]
    assert [float(row["probability"]) for row in rows] == pytest.approx(shares.amax(1)[worst].tolist(), abs=1e-4)
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses[worst].tolist(), abs=1e-4)


def test_the_data_module_of_texts_gives_them(tmp_path):
    file = tmp_path / "texts.csv"
    lines = [f'"{word} {number}, said twice",{word}' for number in range(30) for word in ("good", "bad")]
    file.write_text("\n".join(["text,label", *lines]))
    data = TextDataModule("csv", file=file, length=4)
    data.setup()
    examine(tmp_path, WorstTexts(count=3), Classifier(data.encoder.length, 2), data)
    rows = table(tmp_path)
    assert len(rows) == 3
    assert all(row["text"] in data.texts.x_test and row["text"].startswith(row["label"]) for row in rows)


def in_two_processes(folder):
    """25 samples, so that one of them is given to both processes."""
    model, data = Classifier(60, 3), samples(*IMAGES, classes=3, count=25)
    matrix, worst = ConfusionMatrix(), WorstTexts(count=25)
    options = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": True}
    run = trainer(default_root_dir=folder, callbacks=[matrix, worst, SamplePredictions()], **options)
    written = []
    for callback in (matrix, worst):
        write = callback.write
        callback.write = lambda *given, write=write: written.append(os.getpid()) or write(*given)
    run.test(model, loader(data), verbose=False)
    return int(matrix._counts.sum()), len(written)


def test_several_processes_count_together_and_one_writes(tmp_path):
    assert run(in_two_processes, tmp_path, ranks=2) == [(26, 2), (26, 0)]
    rows = table(tmp_path)
    assert {row["text"] for row in rows} == {f"text {i}" for i in range(25)}
    assert len(rows) == 25
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert FILES[SamplePredictions] <= files(tmp_path)


x, y = samples(2, classes=2).tensors
NO_PAIR = r"found a list of a tensor \(10, 2\) of float32 as a batch; expected \(x, y\)"
MISTAKES = [
    (
        ConfusionMatrix,
        TensorDataset(x),
        {},
        r"found a list of a tensor \(10, 2\) of float32 as a batch; expected \(x, y\)",
    ),
    (ConfusionMatrix, TensorDataset(x, y.float()), {}, "of float32 as a batch; expected"),
    (ConfusionMatrix, TensorDataset(x, torch.stack([y, y], 1)), {}, r"a tensor \(10, 2\) of int64 as a batch"),
    (DecisionRegions, samples(3, classes=2), {}, r"found inputs x \(10, 3\); expected points"),
    (SamplePredictions, samples(3, classes=2), {}, r"found inputs x \(10, 3\); expected images"),
    (WorstTexts, TensorDataset(x, y), {}, "found a data set without texts, TensorDataset"),
    (WorstTexts, samples(2, classes=2), {"shuffle": True}, "found RandomSampler in the validation dataloader"),
]


@pytest.mark.parametrize(("kind", "data", "options", "message"), MISTAKES)
def test_what_cannot_be_drawn_is_said_before_training(kind, data, options, message, tmp_path):
    class Anything(Classifier):
        def training_step(self, batch, batch_idx):
            raise AssertionError("training has begun")

        def validation_step(self, batch, batch_idx):
            pass

    model = Anything(data.tensors[0].shape[1], 2)
    run = trainer(default_root_dir=tmp_path, callbacks=[kind()], num_sanity_val_steps=1)
    with pytest.raises(TargetSpaceError, match=message):
        run.fit(model, loader(data), DataLoader(data, 10, **options))
    assert not model._forward_hooks


def test_logits_of_another_form_are_refused(tmp_path):
    class Steps(Classifier):
        def forward(self, x):
            return super().forward(x)[:, :, None].expand(-1, -1, 4)

        def test_step(self, batch, batch_idx):
            self(batch[0])

    with pytest.raises(
        TargetSpaceError, match=r"found a tensor \(10, 2, 4\) of float32 from forward\(x\) for 10 classes"
    ):
        examine(tmp_path, ConfusionMatrix(), Steps(2, 2), loader(samples(2, classes=2)))


def test_without_matplotlib_a_picture_says_what_to_install_and_a_table_needs_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind, shape in CASES:
        callback, model, data = case(kind, shape)
        if kind is WorstTexts:
            examine(tmp_path, callback, model, loader(data))
            assert table(tmp_path)
        else:
            with pytest.raises(TargetSpaceError, match="pip install matplotlib"):
                examine(tmp_path, callback, model, loader(data))


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_label_that_no_logit_is_of_is_refused(kind, shape, label, tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "test_step", lambda self, batch, batch_idx: {"logits": self(batch[0])})
    callback, model, data = case(kind, shape)
    data.tensors[1][3] = label
    with pytest.raises(TargetSpaceError, match=f"found class {label} among y; expected 0 to 2"):
        examine(tmp_path, callback, model, loader(data))
