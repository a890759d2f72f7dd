"""Files are whole or absent, whatever happens while they are written."""

import os
import time

import pytest

from mlcore import files


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "deep" / "record.json"
    files.write_atomically(path, lambda temporary: temporary.write_text("old"))

    def half_written(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, half_written)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_readers_never_see_the_file_being_written(tmp_path):
    path = tmp_path / "array.npy"
    path.write_text("old")
    seen = []
    files.write_atomically(path, lambda temporary: (temporary.write_text("new"), seen.append(path.read_text())))
    assert seen == ["old"] and path.read_text() == "new"


def test_what_a_killed_process_left_is_gone_an_hour_later(tmp_path):
    path = tmp_path / "run[1].pt"  # brackets are a pattern to those who look for files

    def left(name, minutes):
        (tmp_path / name).write_text("half of one")
        os.utime(tmp_path / name, (time.time() - 60 * minutes,) * 2)

    left(".run[1].123.partial.pt", minutes=61)
    left(".run[1].456.partial.pt", minutes=1)  # somebody may be writing it now
    left(".run1.123.partial.pt", minutes=61)  # of another file
    left(".run[1].123.partial.json", minutes=61)
    left("run[1].previous.pt", minutes=61)
    files.write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert {file.name for file in tmp_path.iterdir()} == {
        "run[1].pt",
        ".run[1].456.partial.pt",
        ".run1.123.partial.pt",
        ".run[1].123.partial.json",
        "run[1].previous.pt",
    }


def test_a_disk_without_room_is_named_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "run.pt"
    path.write_text("old")

    def no_room(temporary):
        temporary.write_text("ne")
        raise RuntimeError("[enforce fail] unexpected pos 64 vs 0\nmore")

    with pytest.raises(OSError, match=r"run\.pt cannot be written, perhaps for want of room \(.*pos 64 vs 0\)\.$"):
        files.write_atomically(path, no_room)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_roots_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCORE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    assert files.data_root() == tmp_path / "data"
    assert files.runs_root() == tmp_path / "runs"
    monkeypatch.delenv("MLCORE_DATA")
    monkeypatch.delenv("MLCORE_RUNS")
    assert files.data_root().name == "data"
    assert files.runs_root().is_relative_to(files.cache_root())
