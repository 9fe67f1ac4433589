"""The folder of a run."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.processes import run
from ts_lightning.cli.files import discard, run_folder
from ts_lightning.errors import SettingError


def test_runs_that_begin_together_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = threading.Barrier(8)

    def begin(_):
        ready.wait()
        return run_folder("text", None)

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(begin, range(8)))
    assert len(set(folders)) == 8
    assert all(folder.is_dir() for folder in folders)


def test_an_empty_folder_is_taken_and_one_with_files_is_not(tmp_path):
    assert run_folder("text", tmp_path) == tmp_path
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SettingError, match="found files in it"):
        run_folder("text", tmp_path)


def test_a_folder_of_runs_that_leads_nowhere_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    with pytest.raises(SettingError, match="cannot be made"):
        run_folder("fit", None)


def takes(folder):
    """Whether another process gets the folder for a run, and what it is told else."""
    try:
        run_folder("fit", folder)
    except SettingError as error:
        return str(error)
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="folders are locked elsewhere only")
def test_an_empty_folder_is_for_one_of_several_runs_that_begin_together(tmp_path):
    assert run_folder("fit", tmp_path) == tmp_path
    assert "found another run in it" in run(takes, tmp_path)[0]
    discard(tmp_path)  # of a run that could not begin
    tmp_path.mkdir()
    assert run(takes, tmp_path)[0] is True
