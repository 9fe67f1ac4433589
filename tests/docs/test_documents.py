"""What stands in README.md and docs/ is true: Python blocks run, commands are taken, links lead somewhere.

docs/convert.md is followed from top to bottom, as by a reader in an empty folder: its files are written, its Python
runs and its commands train. The commands of other pages are parsed in that same folder.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.runs import program, unarranged
from ts_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLLOWED = ROOT / "docs" / "convert.md"
EXTENDING = ROOT / "docs" / "extending.md"  # whose blocks build on each other: tests/extension runs them
#: language, name of the file that it is, and text
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(text, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, (language, _, text) in enumerate(BLOCK.findall(path.read_text()))
    if language == "python" and path not in (FOLLOWED, EXTENDING)
]


def commands(block):
    """The arguments of ``ts-lightning`` in each of a block's lines."""
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in lines if words[:1] == ["ts-lightning"]]


COMMANDS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in DOCUMENTS
    if path not in (FOLLOWED, ROOT / "README.md")  # the latter's are about a project that is not there
    for language, _, text in BLOCK.findall(path.read_text())
    if language == "bash"
    for words in commands(text)
]


def run(code):
    exec(compile(code, "document", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_documents_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder of a reader who did all that docs/convert.md says, and took the files of other pages."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        unarranged(patch)
        patch.syspath_prepend(folder)
        for path in sorted(DOCUMENTS, key=lambda path: path != FOLLOWED):
            for language, file, text in BLOCK.findall(path.read_text()):
                if file:
                    (folder / file).write_text(text)
                elif path == FOLLOWED and language == "python":
                    with patch.context() as without:
                        if "ts_lightning" not in text:  # is to run where this package is not installed
                            without.setitem(sys.modules, "ts_lightning", None)
                        run(text)
                elif path == FOLLOWED and language == "bash":
                    for words in commands(text):
                        ended = program(main, *words)
                        assert ended.code == 0, f"{' '.join(words)}: {ended}"
        sys.modules.pop("signs", None)
    return folder


def test_the_way_of_a_new_user_ends_with_everything_it_promises(followed):
    assert {"signs.ckpt", "signs.safetensors", "signs.onnx"} <= {path.name for path in followed.iterdir()}
    for run_folder in ("first", "second", "both/target-0", "both/weight-0"):
        assert (followed / "runs" / run_folder / "last.ckpt").is_file()
    for report in ("first", "both"):
        assert "data:image/" in (followed / "runs" / report / "report.html").read_text()


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_another_page_is_taken(words, followed, monkeypatch):
    monkeypatch.chdir(followed)
    monkeypatch.syspath_prepend(followed)
    checked = {"compare": ["--help"], "export": [], "dashboard": []}.get(words[0], ["--print_config"])
    ended = program(main, *words, *checked)
    assert ended.code == 0, str(ended)


@pytest.mark.parametrize(
    "block", [text for language, _, text in BLOCK.findall(FOLLOWED.read_text()) if language == "py"]
)
def test_python_of_another_library_runs_where_that_is_installed(block, followed, monkeypatch):
    for library in re.findall(r"^from (ignite|transformers)\b", block, re.MULTILINE):
        pytest.importorskip({"transformers": "accelerate"}.get(library, library))
        pytest.importorskip(library)
    monkeypatch.chdir(followed)
    monkeypatch.syspath_prepend(followed)
    run(block)
    sys.modules.pop("signs", None)


def test_links_between_documents_lead_somewhere():
    for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "configs" / "README.md", ROOT / "recipes" / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)}: {link}"


def test_links_to_sections_lead_to_one():
    for path in DOCUMENTS:
        for page, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text()):
            text = (path.parent / page if page else path).read_text()
            titles = [title.lower() for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
            slugs = [re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles]
            assert section in slugs, f"{path.relative_to(ROOT)}: {page}#{section}"
