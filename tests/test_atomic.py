"""Whole files or none: what a reader finds after success, and after an error."""

import errno
import os

import pytest

from mpt.atomic import write_atomically, write_folder_atomically


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
    with (
        pytest.raises(FileNotFoundError, match=r"x\.json: nothing was written"),
        write_atomically(tmp_path / "x.json"),
    ):
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
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "old").write_text("old")
    with write_folder_atomically(folder) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "new").write_text("new")
        assert (folder / "inner" / "old").is_file()
    assert names(folder) == ["deep"]
    assert (folder / "deep" / "new").read_text() == "new"
    assert names(tmp_path) == ["prompt"]


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
    (folder / "old").write_text("old")
    replace = os.replace

    def second_fails(source, target):
        if len(calls := [*made, source]) == 2:
            made.append(source)
            raise OSError("disk is gone")
        made[:] = calls
        replace(source, target)

    made = []
    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="disk is gone"), write_folder_atomically(folder) as temporary:
        (temporary / "new").write_text("new")
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["prompt"]


def test_folder_over_a_file_is_an_error(tmp_path):
    (tmp_path / "prompt").write_text("a file")
    with (
        pytest.raises(NotADirectoryError, match="prompt: is a file"),
        write_folder_atomically(tmp_path / "prompt"),
    ):
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
