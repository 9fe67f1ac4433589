"""The pages: what they hold, that it is escaped, and that they open without a network."""

import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from tests.report.folders import rows, run
from ts_lightning.report import Comparison, Run, write_comparison_page, write_page

VOID = {"meta", "link", "img", "br"}
NASTY = """<script>alert("1")</script> & 'x' {{ 1234 * 5678 }}"""
SHARES = "time of a step (rest: optimizer)"
MONITOR = ("residual", "condition", "rank", "ridge", "weight_norm", "target_norm")


class Page(HTMLParser):
    """A page's text, pictures and addresses; elements must be closed in order."""

    def __init__(self, file):
        super().__init__()
        self.open, self.text, self.images, self.tags, self.addresses = [], "", {}, [], []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images[attributes["alt"]] = attributes["src"]
        self.addresses += [
            attributes[name] for name in ("src", "href", "srcset", "data", "action") if name in attributes
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def content(address):
    head, data = address.split(",", 1)
    assert head in ("data:image/svg+xml;base64", "data:image/png;base64")
    return base64.b64decode(data)


def full_run(folder, space="target", layers=3, **changes):
    """A run with everything that a page can show."""
    table = rows("test/accuracy", [0.5, 0.9]) + rows("test/loss", [1.0, 0.05])
    for step in range(0, 20, 5):
        row = {"step": step, "train/loss": 1.0 / (step + 1)}
        row |= {f"target_space/{name}/net.{i}": 10.0**-i * (step + 1) for name in MONITOR for i in range(layers)}
        row |= {
            f"target_space/share/{name}": share for name, share in (("solve", 0.3), ("pullback", 0.2), ("main", 0.4))
        }
        table.append(row)
    run(folder, table, space=space, **changes)
    (folder / "last.ckpt").touch()
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2])
    for name in ("decision_regions", "confusion_matrix"):
        figure.savefig(folder / f"{name}.png")
    figure.savefig(folder / "confusion_matrix.svg")
    (folder / "worst_texts.csv").write_text(f'label,text\nif,"{NASTY.replace(chr(34), chr(34) * 2)}"\n')
    return Run.read(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run in each space."""
    folder = tmp_path_factory.mktemp("runs")
    more = {"peak_memory": 2**30, "extra": {"first perfect": "20"}}
    return [full_run(folder / space, space, **more) for space in ("target", "weight")]


@pytest.fixture(scope="module")
def page(runs):
    """The page of the run in target space."""
    return write_page(runs[0])


def test_a_page_shows_what_a_run_left(runs, page):
    folder, file = runs[0].folder, page
    assert file == folder / "report.html"
    page = Page(file)
    assert list(page.images) == [
        *("accuracy", "loss", "confusion matrix", "decision regions"),
        *(
            "relative residual",
            "condition number",
            "effective rank",
            "ridge",
            "norm of the weights",
            "norm of the targets",
        ),
        SHARES,
    ]
    for text in (
        "spirals, target space",
        "done after 100 steps",
        "test accuracy",
        "0.9000",
        "first perfect",
        "1.00 GiB",
    ):
        assert text in page.text
    for text in ("net.0", "net.2", "reference.size", "194", "seed_everything: 3", "torch 2.8.0"):
        assert text in page.text
    assert f"ts-lightning fit --config {folder}/config.yaml --ckpt_path {folder}/last.ckpt" in page.text


def test_every_picture_is_within_the_page_and_sharp_where_it_can_be(runs, page):
    images, folder = Page(page).images, runs[0].folder
    assert content(images["decision regions"]) == (folder / "decision_regions.png").read_bytes()
    assert content(images["confusion matrix"]) in [
        (folder / f"confusion_matrix.{kind}").read_bytes() for kind in ("png", "svg")
    ]
    for name in ("accuracy", "relative residual", SHARES):
        assert b"<svg" in content(images[name])


def test_pages_load_nothing(runs, page):
    files = [page, write_comparison_page(Comparison.of(runs), runs[0].folder.parent)]
    for file in files:
        page = Page(file)
        links = [address for address in page.addresses if not address.startswith("data:")]
        assert links == ([] if file == files[0] else ["target/report.html", "weight/report.html"])
        assert "script" not in page.tags
        assert not re.search(r"https?:|//[a-z]|url\(|@import", file.read_text(encoding="utf-8").split("<body>")[0])


def test_everything_is_escaped(tmp_path):
    config = f"target_space:\n  layers: ['{NASTY.replace(chr(39), chr(39) * 2)}']\n"
    table = [*rows(f"val_{NASTY}", [1.0]), {"step": 0, f"target_space/rank/{NASTY}": 1.0}]
    run(tmp_path, table, config, title=NASTY, extra={NASTY: NASTY, "repeat": NASTY})
    (tmp_path / "worst_texts.csv").write_text("text\n</td></table><script>alert(1)</script>\n")
    page = Page(write_page(Run.read(tmp_path)))
    assert "script" not in page.tags
    assert page.text.count(NASTY) >= 5
    assert "</td></table><script>" in page.text
    assert str(1234 * 5678) not in page.text  # no template within the values was run


def test_a_run_that_was_interrupted_at_once_has_a_page(tmp_path):
    page = Page(write_page(run(tmp_path, config=None, steps=0, seconds=0.0, step_seconds=None, interrupted=True)))
    assert "interrupted after 0 steps" in page.text
    assert "No metric was measured yet" in page.text
    assert page.images == {}


def test_a_comparison_shows_both_spaces(tmp_path):
    runs = [
        full_run(tmp_path / f"{space}{seed}", space, extra={"repeat": "ts-lightning compare"})
        for space in ("target", "weight")
        for seed in range(2)
    ]
    page = Page(write_comparison_page(Comparison.of(runs, levels=[0.9, 0.99]), tmp_path))
    assert list(page.images)[:4] == [
        "test accuracy against steps",
        "test accuracy against seconds",
        "test loss against steps",
        "train loss against steps",
    ]
    drawn = content(page.images["test accuracy against seconds"]).decode()
    assert "target space, mean of 2 seeds" in drawn
    assert "weight space, mean of 2 seeds" in drawn
    for text in ("steps to 0.9", "not reached (0 of 2 seeds)", "time per step", "2 seeds", str(tmp_path / "weight1")):
        assert text in page.text


def test_both_spaces_are_compared_where_the_monitor_saw_nothing(tmp_path):
    runs = [run(tmp_path / space, rows("val_loss", [1.0]), space=space) for space in ("target", "weight")]
    page = Page(write_comparison_page(Comparison.of(runs), tmp_path))
    assert list(page.images) == ["val loss against steps", "val loss against seconds"]
    assert "Inside target space" not in page.text


@pytest.mark.parametrize("layers", [1, 20])
def test_layers_are_told_apart_by_colours_of_their_own(layers, tmp_path):
    write_page(full_run(tmp_path, layers=layers))
    colours = re.findall(r'style="background: (#\w{6})"', (tmp_path / "report.html").read_text())
    assert len(colours) == len(set(colours)) == layers
