"""CSV and Parquet files of texts: what is read, and one clear line for what cannot be."""

import re

import pytest

from ts_lightning.data import DataError
from ts_lightning.recipes.data.text_files import csv_texts, parquet_texts, typed
from ts_lightning.recipes.data.text_set import held_out, split_by_hash, text_set
from ts_lightning.recipes.data.text_sources import from_files, imdb, load

SPLITS = ("train", "test")


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_csv(path):
    return csv_texts(path, "text", "label")


def test_csv_has_quotes_line_breaks_other_columns_and_long_texts(tmp_path):
    long = "word " * 50_000
    content = f'\ufeff\n\nlabel,id,text\n1,a,"Commas, ""quotes""\nand lines"\n\n0,b,\n-2,c,{long}\n'
    texts, labels = read_csv(written(tmp_path / "a.csv", content))
    assert texts == ['Commas, "quotes"\nand lines', "", long]
    assert labels == ["1", "0", "-2"]


def test_csv_labels_are_integers_if_all_of_them_are_in_both_files(tmp_path):
    assert typed(["10", "-2", "+3"], "test") == [10, -2, 3]
    assert typed(["1", "good", "0.5"], "test") == ["1", "good", "0.5"]
    train = written(tmp_path / "train.csv", "text,label\na,01\nb,good\n")
    test = written(tmp_path / "test.csv", "text,label\nc,01\n")
    found = from_files("csv", train, test, "text", "label")
    assert (found.labels, found.y_test.tolist()) == (["01", "good"], [0])


BAD_CSV = [
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("text,label\n", "found no texts"),
    ("text;label\na;1\n", "no column 'text', 'label'; found 'text;label'"),
    ("text,class\na,1\n", "no column 'label'; found 'text', 'class'. Say which to read with --data.text_column"),
    ("text,label,label\na,1,2\n", "found 2 columns 'label'; expected one: rename them"),
    ("text,label\na,1\nb,\n", "line 3: found no label"),
    ("text,label\na,1\nb, c,0\n", "line 3: found 3 fields, expected 2"),
    ("text,label\na\n", "line 2: found 1 field, expected 2"),
    ('text,label\n"a,1\n', "not readable as CSV"),
    ("text,label\na,1\nb,0.5\n", "but 0.5 is no integer; expected integers or strings"),
    ("text,label\na,nan\nb,1\n", "but nan is no integer"),
    (b"text,label\ngood,1\ncaf\xe9,0\n", "line 3: found the byte 0xe9, which is not UTF-8"),
    ("text,label\na,1\nb,1\nc,1\nd,1\ne,1\nf,1\ng,1\nh,1\n", "found only the label 1; expected at least two"),
    ("text,label\na,1\n", "too few to set a fifth aside"),
]


@pytest.mark.parametrize(("content", "message"), BAD_CSV, ids=[message for _, message in BAD_CSV])
def test_bad_csv_is_explained(content, message, tmp_path):
    path = written(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        from_files("csv", path, None, "text", "label")
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    for read in (csv_texts, parquet_texts):
        for path, found in ((tmp_path / "a", "nothing"), (tmp_path, "a folder")):
            with pytest.raises(DataError, match=f"found {found}; expected a file of texts"):
                read(path, "text", "label")


BAD_PAIRS = [
    ((["a"], [0.5], ["b"], [1]), "found 0.5 (float) as the label of training text 1; expected integers or strings"),
    ((["a"], [True], ["b"], [1]), "found True (bool) as the label of training text 1"),
    ((["a", "b"], [0, None], ["b"], [1]), "found nothing as the label of training text 2"),
    ((["a", "b"], [0, "1"], ["b"], [1]), "found integers and strings among the training labels"),
    ((["a", "b"], [0, 1], ["c", 3], [1, 0]), "found 3 (int) as test text 2; expected a string"),
    ((["a", None], [0, 1], ["c"], [1]), "found nothing as training text 2"),
    ((["a", "\udc80"], [0, 1], ["c"], [1]), "training text 2 is not valid Unicode"),
    ((["a", "b"], [0, 1], [], []), "found no test texts"),
    ((["a", "b"], [0, 1], ["c", "d", "e"], [2, 1, 2]), "no training text has: 2 (2 texts). Expected every class"),
]


@pytest.mark.parametrize(("pairs", "message"), BAD_PAIRS, ids=[message for _, message in BAD_PAIRS])
def test_bad_texts_and_labels_are_explained(pairs, message):
    with pytest.raises(DataError, match=re.escape(message)):
        text_set(*pairs, "test")


def test_classes_follow_the_size_of_integers_and_the_alphabet():
    numbers = text_set(["a", "b", "c"], [10, -1, 9], ["d", "e"], [9, 10], "test")
    assert numbers.labels == ["-1", "9", "10"]
    assert (numbers.y_train.tolist(), numbers.y_test.tolist()) == ([2, 0, 1], [1, 2])
    words = text_set(["a", "b", "c"], ["no", "yes", "yes"], ["d", "e", "f", "g"], ["yes", "no", "yes", "yes"], "test")
    assert words.labels == ["no", "yes"]
    assert words.majority == 0.75


def test_equal_texts_are_never_in_different_splits():
    texts = [f"text {i % 50}" for i in range(200)]
    found = split_by_hash(texts, [i % 2 for i in range(200)], "test")
    assert len(found.x_train) + len(found.x_test) == 200
    assert not set(found.x_train) & set(found.x_test)


def test_every_class_is_left_for_training_when_texts_are_held_out():
    share, texts = 0.25, [f"text {i}" for i in range(60)]
    usual = text_set(texts, ["a", "b"] * 30, texts, ["a", "b"] * 30, "test")
    _, out, _ = held_out(usual, share, "test")
    labels = ["rare" if text == out[0] else "ab"[i % 2] for i, text in enumerate(texts)]
    with pytest.raises(DataError, match=r"all texts of 'rare' among those held out .* --data\.validation 0"):
        held_out(text_set(texts, labels, texts, labels, "test"), share, "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "csv"}, "csv: found no file; expected --data.file PATH"),
        ({"source": "topics", "file": "a.csv"}, "--data.file 'a.csv' goes with --data.source csv or parquet"),
        ({"source": "imdb", "test_file": "a.csv"}, "--data.test_file 'a.csv' goes with"),
        ({"source": "topics", "root": "a"}, "--data.root 'a' goes with --data.source imdb"),
        ({"source": "csv", "root": "a", "file": "a.csv"}, "--data.root 'a' goes with --data.source imdb"),
        ({"source": "topics", "text_column": "review"}, "--data.text_column 'review' goes with --data.source csv or "),
        ({"source": "imdb", "label_column": "y"}, "--data.label_column 'y' goes with --data.source csv or parquet"),
        ({"source": "imdb"}, "--data.largest 3 goes with --data.source topics; found --data.source imdb."),
        ({"source": "csv", "file": "a.csv"}, "--data.largest 3 goes with --data.source topics; found --data.source c"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    given = {"root": None, "file": None, "test_file": None, "text_column": "text", "label_column": "label"}
    with pytest.raises(DataError, match=re.escape(message)):
        load(**{**given, "largest": 3, **options})


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")


def test_parquet_gives_what_csv_gives(parquet, tmp_path):
    writer, arrow = parquet
    for labels in ([1, 0], ["good", "bad"], arrow.array(["good", "bad"]).dictionary_encode()):
        writer.write_table(arrow.table({"id": [1, 2], "review": ["a\nb", ""], "y": labels}), tmp_path / "a.parquet")
        expected = labels if isinstance(labels, list) else ["good", "bad"]
        assert parquet_texts(tmp_path / "a.parquet", "review", "y") == [["a\nb", ""], expected]


def test_bad_parquet_is_explained(parquet, tmp_path):
    writer, arrow = parquet
    path = tmp_path / "a.parquet"
    broken = arrow.Array.from_buffers(
        arrow.string(), 1, [None, arrow.py_buffer(b"\0\0\0\0\1\0\0\0"), arrow.py_buffer(b"\xff")]
    )
    tables = [
        ({"text": ["a"]}, "no column 'label'; found 'text'"),
        (([["a"], [1], [2]], ["text", "label", "label"]), "found 2 columns 'label'; expected one: rename them"),
        ({"text": broken, "label": [1]}, "found a text in 'text' that is not UTF-8"),
    ]
    for columns, message in tables:
        table = arrow.table(columns) if isinstance(columns, dict) else arrow.Table.from_arrays(*columns)
        writer.write_table(table, path)
        with pytest.raises(DataError, match=re.escape(message)):
            parquet_texts(path, "text", "label")
    writer.write_table(arrow.table({"text": arrow.array([], arrow.string()), "label": arrow.array([], "int64")}), path)
    with pytest.raises(DataError, match="found no texts"):
        from_files("parquet", path, None, "text", "label")
    written(path, "no Parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        parquet_texts(path, "text", "label")


def test_imdb_is_read_from_a_folder_of_its_files(parquet, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    writer, arrow = parquet
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "plain_text"
    folder.mkdir()
    writer.write_table(arrow.table({"other": [1]}), folder / "trec_train.parquet")
    with pytest.raises(DataError, match=re.escape("expected train*.parquet or imdb_train*.parquet")):
        imdb(tmp_path)
    for split, texts in (("train", ["good film", "bad film"]), ("test", ["bad"])):
        table = arrow.table({"text": texts, "label": [int("good" in text) for text in texts]})
        writer.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    found = imdb(tmp_path)
    assert found.labels == ["negative", "positive"]
    assert (found.x_train, found.y_train.tolist()) == (["good film", "bad film"], [1, 0])
    assert (found.x_test, found.y_test.tolist()) == (["bad"], [0])


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "never fetched"])
def test_a_hub_that_cannot_be_reached_is_asked_once(kept, monkeypatch):
    datasets, hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    asked, offline = [], []

    def unreachable(self, name, timeout):
        asked.append(name)
        raise ConnectionError("no route to the hub")

    def load_dataset(name):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        if not kept:
            raise ConnectionError("offline")
        return {split: datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}) for split in SPLITS}

    monkeypatch.setattr(hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    if kept:
        assert imdb(None).labels == ["negative", "positive"]
    else:
        with pytest.raises(DataError, match=r"imdb: could not be fetched \(no route to the hub\)\. Check the network"):
            imdb(None)
    assert (asked, offline, datasets.config.HF_HUB_OFFLINE) == (["stanfordnlp/imdb"], [True], False)
