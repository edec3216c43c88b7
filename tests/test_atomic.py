"""Whole files or none: what a reader finds after success, and after an error."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpt.atomic import write_atomically, write_folder_atomically
from mpt.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_replaced(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with write_atomically(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["metrics.json"]


def test_error_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail():
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.json: nothing was written"), write_atomically(tmp_path / "x.json"):
        pass
    assert names(tmp_path) == []


def test_missing_folder_is_an_error(tmp_path):
    path = tmp_path / "absent" / "x.json"
    with pytest.raises(FileNotFoundError), write_atomically(path) as temporary:
        temporary.write_text("x")


def test_link_is_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with write_atomically(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "prompt"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "old").write_text("old")
    with write_folder_atomically(folder) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "new").write_text("new")
        assert (folder / "deep" / "old").is_file()
    assert names(folder) == ["deep"]
    assert names(folder / "deep") == ["new"]
    assert names(tmp_path) == ["prompt"]


@pytest.mark.parametrize("is_ours", [None, lambda folder: False])
def test_what_somebody_else_has_written_is_refused_and_stays(tmp_path, is_ours):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")

    def write():
        with write_folder_atomically(folder, is_ours) as temporary:
            (temporary / "new").write_text("new")

    with pytest.raises(UserError, match=r"thesis: holds thesis\.tex, which would be lost; give a folder that is new"):
        write()
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert names(tmp_path) == ["thesis"]


def test_a_file_that_comes_while_the_new_folder_is_written_stays(tmp_path):
    folder = tmp_path / "prompt"
    folder.mkdir()

    def write():
        with write_folder_atomically(folder) as temporary:
            (temporary / "new").write_text("new")
            (folder / "notes.txt").write_text("mine")

    with pytest.raises(UserError, match=r"holds notes\.txt"):
        write()
    assert (folder / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["prompt"]


def test_the_working_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the working folder"), write_folder_atomically(Path(".")):
        pytest.fail("the block was entered")


def test_killed_at_any_system_call_of_the_swap_the_old_or_the_new_folder_stands(tmp_path):
    """A child exchanges two folders for ever; whenever it is killed, one of them stands under the name."""
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "version").write_text("0")
    code = (
        "import sys\nfrom pathlib import Path\nfrom mpt.atomic import write_folder_atomically\n"
        "for number in range(10**6):\n"
        "    with write_folder_atomically(Path(sys.argv[1])) as temporary:\n"
        "        (temporary / 'version').write_text(str(number))\n"
        "    print(number, flush=True)\n"
    )
    for wait in (0.0, 0.003, 0.011, 0.02):
        child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait)
        child.kill()
        child.wait()
        assert int((folder / "version").read_text()) >= 0


def test_error_leaves_the_old_folder_alone(tmp_path):
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "old").write_text("old")

    def fail():
        with write_folder_atomically(folder) as temporary:
            (temporary / "new").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["prompt"]


def test_failing_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "file").write_text("old")
    replace = os.replace
    # A file system that cannot exchange two folders.
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace())

    def second_fails(source, target):
        if len(calls := [*made, source]) == 2:
            made.append(source)
            raise OSError("disk is gone")
        made[:] = calls
        replace(source, target)

    made = []
    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="disk is gone"), write_folder_atomically(folder) as temporary:
        (temporary / "file").write_text("new")
    assert (folder / "file").read_text() == "old"
    assert names(tmp_path) == ["prompt"]


def test_folder_over_a_file_is_an_error(tmp_path):
    (tmp_path / "prompt").write_text("a file")
    with pytest.raises(NotADirectoryError, match="prompt: is a file"), write_folder_atomically(tmp_path / "prompt"):
        pass
    assert (tmp_path / "prompt").read_text() == "a file"


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write():
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as found:
        write()
    assert found.value.filename == str(path)
    assert path.read_text() == "old"
