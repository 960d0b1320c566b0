"""Paths stay as the user spelled them, and a file is there whole or not at all."""

import os
from pathlib import Path

import pytest
from etils import epath

from yoda_jax.errors import UserError
from yoda_jax.runs import Run, located, write_whole


def test_local_paths_are_made_absolute_and_keep_their_links(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelled in ("link/run", "./link//run/", "~/link/run", tmp_path / "link" / "run"):
        assert os.fspath(located(spelled)) == f"{tmp_path}/link/run"


def test_buckets_are_never_mangled():
    run = Run("gs://bucket/a folder/run")
    assert str(run) == "gs://bucket/a folder/run"
    assert os.fspath(run.checkpoints) == "gs://bucket/a folder/run/checkpoints"
    assert os.fspath(run.records("train")) == "gs://bucket/a folder/run/records/train"
    assert (
        os.fspath(run.within("base").configuration) == "gs://bucket/a folder/run/base/config.json"
    )
    assert os.fspath(Run("/r").records("eval", "gs://b/shared")) == "gs://b/shared/eval"
    assert not Path("gs:").exists()


def test_without_a_home_folder_it_is_said(monkeypatch):
    with pytest.raises(UserError, match="~nobody-of-that-name/x names a home folder, found none"):
        located("~nobody-of-that-name/x")


def test_a_file_is_written_with_its_folders(tmp_path):
    path = epath.Path(tmp_path) / "a/b/c.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["c.json"]


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "c.json"
    write_whole(path, b"whole")

    def full(self, data):
        Path(self).write_bytes(data[:2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"other")
    monkeypatch.undo()
    assert path.read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1
