"""Files are whole or absent, whatever happens while they are written."""

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


def test_roots_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCORE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    assert files.data_root() == tmp_path / "data"
    assert files.runs_root() == tmp_path / "runs"
    monkeypatch.delenv("MLCORE_DATA")
    monkeypatch.delenv("MLCORE_RUNS")
    assert files.data_root().name == "data"
    assert files.runs_root().is_relative_to(files.cache_root())
