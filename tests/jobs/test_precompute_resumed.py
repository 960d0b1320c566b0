"""Records that were stopped, killed or shared by processes are those of one run."""

import itertools
import os
import threading
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from albums import GOOD, all_files, configuration, contents, records
from command_line import run_and_kill
from jax.experimental import multihost_utils

from yoda_jax.data.photos import BadPicture
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute


def test_pictures_removed_after_a_stop_do_not_mix_the_splits(album, tmp_path):
    """Another one is held out in place of the one removed: its training record has to go."""
    folder = tmp_path / "changing"
    folder.mkdir()
    for name in GOOD:
        (folder / Path(name).name).write_bytes((album / name).read_bytes())
    files = sorted(folder.iterdir(), key=lambda path: zlib.crc32(path.name.encode()))
    files[0].write_bytes(b"damaged")  # held out, hence read after training's pictures
    config = configuration(folder, data__pictures_per_shard=2)
    with pytest.raises(BadPicture, match=files[0].name):
        precompute.run(config, str(tmp_path))
    assert files[2].name in {example["name"] for example in records(tmp_path, "train")[0]}
    files[0].unlink()
    precompute.run(config, str(tmp_path))
    train, held = ([e["name"] for e in records(tmp_path, split)[0]] for split in ("train", "eval"))
    assert sorted(train) == sorted(file.name for file in files[3:])
    assert sorted(held) == sorted(file.name for file in files[1:3])


def test_pictures_added_to_an_unfinished_run_are_neither_lost_nor_doubled(album, tmp_path):
    folder = tmp_path / "growing"
    folder.mkdir()
    for name in GOOD[2:]:
        (folder / f"m{name}").write_bytes((album / name).read_bytes())
    (folder / "z.png").write_bytes(b"damaged")
    config = configuration(folder, data__eval="samples:photos/test", data__pictures_per_shard=3)
    with pytest.raises(BadPicture, match="z.png"):
        precompute.run(config, str(tmp_path))
    (folder / "z.png").unlink()
    (folder / "a.jpg").write_bytes((album / GOOD[0]).read_bytes())
    precompute.run(config, str(tmp_path))
    names = [example["name"] for example in records(tmp_path, "train")[0]]
    assert names == ["a.jpg", *(f"m{name}" for name in GOOD[2:])]


@pytest.mark.parametrize("at_hand", [True, False])
def test_complete_records_are_left_alone_and_need_no_pictures(at_hand, album, reference):
    before = {name: path.stat().st_mtime_ns for name, path in all_files(reference).items()}
    away = album if at_hand else album.rename(album.with_name("away"))
    # What the records do not depend on may change.
    config = configuration(
        album, attention__aggregate="mean", mask__lower_bound=0.5, data__threads=1, data__stride=16
    )
    try:
        precompute.run(config, str(reference))
    finally:
        away.rename(album)
    assert {n: p.stat().st_mtime_ns for n, p in all_files(reference).items()} == before


@pytest.mark.parametrize("pictures", range(6))
def test_interrupted_run_goes_on_where_it_stopped(
    album, reference, tmp_path, monkeypatch, pictures
):
    prepared = []
    whole = precompute.prepare

    def limited(name, *rest):
        prepared.append(name)
        if len(prepared) > pictures:
            raise KeyboardInterrupt
        return whole(name, *rest)

    config = configuration(album, data__threads=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(precompute, "prepare", limited)
        precompute.run(config, str(tmp_path))
    assert len(list(tmp_path.rglob("*tfrecord*.json"))) == pictures
    assert len(list(tmp_path.rglob("manifest.json"))) == (1 if pictures >= 4 else 0)

    again = []
    monkeypatch.setattr(precompute, "prepare", lambda *a: again.append(a[0]) or whole(*a))
    precompute.run(config, str(tmp_path))
    assert sorted(prepared[:pictures] + again) == sorted(GOOD)  # each prepared once
    assert contents(tmp_path).items() >= contents(reference).items()


def test_killed_process_goes_on_where_it_stopped(album, reference, tmp_path):
    """SIGKILL within a shard; the records are then those of one run, bit for bit."""
    copy = tmp_path / "copy"
    (copy / "a").mkdir(parents=True)
    for name in GOOD:
        (copy / name).write_bytes((album / name).read_bytes())
    last = [example["name"] for example in records(reference, "train")[0]][-1]
    (copy / last).unlink()
    os.mkfifo(copy / last)  # whoever opens it waits for ever
    config = configuration(copy)
    attention = ("source", "input_size", "cell")
    fields = ("train", "holdout", "hr_size", "stride", "scale", "threads", "pictures_per_shard")
    arguments = ["--config=configs/default.py", "--mode=precompute", f"--workdir={tmp_path}"]
    arguments += [f"--config.attention.{f}={config.attention[f]}" for f in attention]
    arguments += [f"--config.data.{field}={config.data[field]}" for field in fields]
    folder = tmp_path / "records/train"
    run_and_kill(arguments, lambda: list(folder.glob("*00003-of-00004.part-*")), tmp_path / "log")
    survivors = {p: p.stat().st_mtime_ns for p in folder.glob("*.tfrecord-?????-of-00004")}
    assert len(survivors) == 3 and not (folder / "manifest.json").exists()

    (copy / last).unlink()
    (copy / last).write_bytes((album / last).read_bytes())
    precompute.run(config, str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in survivors} == survivors
    for split in ("train", "eval"):
        shards = list((reference / "records" / split).glob("*.tfrecord-?????-of-?????"))
        for shard in shards:
            assert (tmp_path / "records" / split / shard.name).read_bytes() == shard.read_bytes()
        for found, expected in zip(
            records(tmp_path, split)[0], records(reference, split)[0], strict=True
        ):
            assert found["name"] == expected["name"]


def test_changed_setting_is_noticed_in_unfinished_records(album, tmp_path, monkeypatch):
    calls = itertools.count()
    whole = precompute.prepare
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def limited(*arguments):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return whole(*arguments)

        patch.setattr(precompute, "prepare", limited)
        precompute.run(configuration(album), str(tmp_path))
    with pytest.raises(UserError, match=r"attention\.source='edges'.*'entropy'"):
        precompute.run(configuration(album, attention__source="entropy"), str(tmp_path))
    with pytest.raises(UserError, match=r"data\.scale=4.* 2;"):
        precompute.run(configuration(album, data__scale=2), str(tmp_path))


def test_two_processes_share_the_shards(album, reference, tmp_path, monkeypatch):
    """Threads play the processes, with real barriers; every shard has one writer."""
    process, barrier, writers = threading.local(), threading.Barrier(2, timeout=60), {}
    write = precompute.write_shard

    def recorded(path, *rest):
        assert path not in writers
        writers[path] = process.index
        if process.index == 1:
            time.sleep(0.05)  # process 0 has to wait for its manifest
        write(path, *rest)

    monkeypatch.setattr(jax, "process_index", lambda: process.index)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    failed = [False, False]

    def gather(value):
        failed[process.index] = bool(value)
        barrier.wait()
        everyone = np.array(failed)
        barrier.wait()  # nobody goes on before all have read
        return everyone

    told = []

    def broadcast(value):
        if process.index == 0:
            told[:] = [value]
        barrier.wait()
        value = told[0]
        barrier.wait()
        return value

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(precompute, "write_shard", recorded)
    complete, errors = [], []

    def run(index):
        process.index = index
        try:
            precompute.run(configuration(album), str(tmp_path))
            complete.append(len(list(tmp_path.rglob("manifest.json"))))
        except BaseException as error:  # shown by the assertion below
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert complete == [2, 2]  # no process goes on before the records are complete
    assert contents(tmp_path) == contents(reference)
    shards = {i: [p.name[-14:-9] for p, w in writers.items() if w == i] for i in range(2)}
    assert sorted(shards[0]) == ["00000", "00000", "00002"]
    assert sorted(shards[1]) == ["00001", "00001", "00003"]
