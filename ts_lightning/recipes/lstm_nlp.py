"""Texts classified by an LSTM: ``python -m ts_lightning.recipes.lstm_nlp``, and ``... predict`` for new text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import seed_everything

from ts_lightning import TargetSpaceConfig
from ts_lightning.data import TextDataModule
from ts_lightning.data.pretrained import pretrained, splitter
from ts_lightning.data.text_sources import Source
from ts_lightning.recipes._figures import curves, figure
from ts_lightning.recipes._predict import predict
from ts_lightning.recipes._program import Run, expect, program
from ts_lightning.recipes._recurrent import Cell
from ts_lightning.recipes._report import table
from ts_lightning.recipes._text_classifier import LEARNING_RATES, TARGET_SPACE, Reference, TextClassifier
from ts_lightning.recipes._training import Outcome, fit

#: words of a text: for topics nearly all of nearly every sentence, for IMDB the paper's
_LENGTH = {"topics": 50, "imdb": 500, "csv": 500, "parquet": 500}


def train(
    run: Run,
    space: Literal["target", "weight"] = "target",
    data: Source = "topics",
    root: Path | None = None,
    file: Path | None = None,
    test_file: Path | None = None,
    text_column: str = "text",
    label_column: str = "label",
    topics: int = 8,
    cell: Cell = "lstm",
    embedding: int = 32,
    units: int = 100,
    words: int = 5000,
    length: int | None = None,
    tokenizer: str | None = None,
    vectors: str | None = None,
    reference: Reference = "embeddings",
    reference_steps: int = 60,
    dropout: float = 0.0,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int = 40,
    lr: float | None = None,
    clip: float | None = None,
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    target_space: TargetSpaceConfig = TARGET_SPACE,
) -> Outcome:
    """Classify texts with an embedding, a recurrent layer and a readout of its last step, Adam.

    Args:
        run: where the files go.
        space: train targets, or weights (with the same data, network, order of data and optimizer).
        data: topics are sentences of Python's own documentation, by their topic; imdb are film reviews, good or bad;
            csv and parquet are files of your own.
        root: for imdb, a folder with its Parquet files; without it they come from the Hugging Face hub.
        file: for csv and parquet, the training texts.
        test_file: for csv and parquet, the test texts; without it a fifth of file, chosen by a hash of the text.
        text_column: for csv and parquet, the name of the column of texts.
        label_column: for csv and parquet, the name of the column of labels, integers or strings.
        topics: for topics, how many of them, the largest ones.
        cell: the recurrent layer - rnn is the vanilla one with tanh.
        embedding: features of a word; those of vectors, where there are some.
        units: of the recurrent layer.
        words: words in the vocabulary, the most frequent ones in training.
        length: words of a text that are used, its last ones; default 50 for topics, 500 for others.
        tokenizer: one of torchtext's that splits words, as basic_english; default all runs of letters and digits, in
            small letters.
        vectors: pretrained vectors that the embedding starts from, read by torchtext - a file, or a name that it
            downloads, as glove.6B.100d.
        reference: the reference batch - embeddings are those of training texts; noise is uniform in -1 to 1 in the
            place of embeddings, as in the paper.
        reference_steps: steps of the reference batch; of texts these are the last ones.
        dropout: share of words, 0 to below 1, that are replaced by the unknown one in training.
        epochs: passes over the training data; the test texts are measured after each.
        steps: end after this many optimizer steps, if epochs do not end before.
        batch_size: texts in a training batch.
        lr: Adam's learning rate; default 0.002 in target space, 0.001 in weight space.
        clip: largest norm of a step's gradient, which is scaled down to it - of the targets in target space, of the
            weights in weight space; default none.
        seed: of the order of the data, and of initial targets and weights.
        accelerator: device; auto takes a GPU (CUDA) where there is one.
        target_space: settings of target space; unused in weight space.

    Returns:
        What the run reached.
    """
    length = _LENGTH[data] if length is None else length
    lr = LEARNING_RATES[space] if lr is None else lr
    expect("--words", words, 3)
    for option, value in (
        ("embedding", embedding),
        ("units", units),
        ("length", length),
        ("reference_steps", reference_steps),
        ("epochs", epochs),
        ("steps", 1 if steps is None else steps),
        ("batch_size", batch_size),
    ):
        expect(f"--{option}", value, 1)
    expect("--lr", lr, 0, strict=True)
    if clip is not None:
        expect("--clip", clip, 0, strict=True)
    expect("--dropout", dropout, 0, below=1)
    texts = TextDataModule(
        data, root, file, test_file, text_column, label_column, topics, words, length, batch_size, seed,
        split=None if tokenizer is None else splitter(tokenizer),
        vectors=None if vectors is None else pretrained(vectors),
    )  # fmt: skip
    texts.setup()
    start = texts.embeddings()
    embedding = embedding if start is None else start[0].shape[1]
    seed_everything(seed, verbose=False)
    model = TextClassifier(
        texts.encoder.to_json(), texts.texts.labels, tokenizer, cell, embedding, units, reference, reference_steps,
        dropout, lr, target_space if space == "target" else None,
    )  # fmt: skip
    extra = {
        "majority class": f"{texts.texts.majority:.4f} test accuracy",
        "classes": _listed(texts.texts.labels),
        "texts": f"{len(texts.texts.x_train):,} training, {len(texts.texts.x_test):,} test",
    }
    if start is not None:
        found = start[1]
        with torch.no_grad():
            model.network.embedding.weight[found] = start[0][found]
        extra["words with pretrained vectors"] = f"{int(found.sum()):,} of {len(found):,}"
    folder = run.create(lr=lr, length=length, embedding=embedding)
    outcome = fit(
        model,
        texts,
        folder,
        accelerator=accelerator,
        max_epochs=epochs,
        max_steps=-1 if steps is None else steps,
        gradient_clip_val=clip,
        log_every_n_steps=1,
    )
    title = f"{data if file is None else file.name}, {cell} of {units} units, {space} space"
    with figure(folder, title, [4.6, 4.6], 3.8) as (left, right):
        curves(left, outcome.history, "accuracy", "accuracy", batches=10)
        left.axhline(
            texts.texts.majority, color="#888888", linewidth=1, linestyle="--", zorder=1, label="majority class"
        )
        left.legend(loc="best")
        curves(right, outcome.history, "loss", "cross-entropy", batches=10)
    extra["new text"] = f"python -m ts_lightning.recipes.lstm_nlp predict {folder / 'last.ckpt'} 'some text'"
    print(table(title, outcome, ["test/accuracy", "test/loss"], extra, folder))
    return outcome


def _listed(labels: list[str], most: int = 10) -> str:
    more = f", and {len(labels) - most} more" if len(labels) > most else ""
    return f"{len(labels)}: {', '.join(labels[:most])}{more}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["predict"]:
        predict("ts_lightning.recipes.lstm_nlp", arguments[1:])
    else:
        program("lstm_nlp", train, arguments)


if __name__ == "__main__":
    main()
