"""Records of a real folder of photographs: bad pictures, resumption, settings and processes."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from configs import default
from yoda_jax.data.degrade import fit
from yoda_jax.data.photos import BadPicture
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute

ROOT = Path(__file__).parents[2]
GOOD = ("a/china.jpg", "a/flower.jpg", "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
BAD = ("a/cut.jpg", "notes.png", "thumb.png")


def photograph(name):
    stem = Path(name).stem
    if stem in ("china", "flower"):
        return load_sample_image(f"{stem}.jpg")[100:180, 200:264]
    return getattr(data, stem)()[60:140, 150:250]


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of good photographs, JPEG and PNG."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "a").mkdir()
    for name in GOOD:
        Image.fromarray(photograph(name)).save(folder / name)
    return folder


@pytest.fixture
def spoilt(album, tmp_path):
    """The same with a truncated JPEG, a text called .png and a tiny picture among them."""
    folder = tmp_path / "spoilt"
    (folder / "a").mkdir(parents=True)
    for name in GOOD:
        (folder / name).write_bytes((album / name).read_bytes())
    whole = (album / "a/china.jpg").read_bytes()
    (folder / "a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.png").write_text("Not a picture at all.")
    Image.fromarray(data.coffee()[:20, :20]).save(folder / "thumb.png")
    return folder


def configuration(folder, **changes):
    """A small configuration; `data__scale=2` changes data.scale."""
    config = default.get_config()
    config.data.update(
        train=f"folder:{folder}", holdout=2, hr_size=32, stride=32, scale=4, threads=2,
        pictures_per_shard=1,
    )  # fmt: skip
    config.attention.update(source="edges", input_size=32, cell=4)
    for name, value in changes.items():
        group, field = name.split("__")
        config[group][field] = value
    return config


def all_files(folder):
    return {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}


def contents(folder):
    """Bytes of all shards with their indices and manifests."""
    return {
        name: path.read_bytes()
        for name, path in all_files(folder).items()
        if "tfrecord" in name or name.endswith("manifest.json")
    }


def records(workdir, split):
    found = Records(Path(workdir) / "records" / split)
    return [found[i] for i in range(len(found))], found.manifest


@pytest.fixture(scope="module")
def reference(album, tmp_path_factory):
    """What one uninterrupted run writes."""
    workdir = tmp_path_factory.mktemp("reference")
    precompute.run(configuration(album), str(workdir))
    return workdir


def test_records_hold_every_picture_once(album, reference):
    train, manifest = records(reference, "train")
    held, held_manifest = records(reference, "eval")
    names = [example["name"] for example in train + held]
    assert sorted(names) == sorted(GOOD)
    assert (len(train), len(held)) == (4, 2)
    assert [m["pictures"] for m in (manifest, held_manifest)] == [4, 2]
    assert [m["skipped"] for m in (manifest, held_manifest)] == [[], []]
    for example in train + held:
        picture = np.array(Image.open(album / example["name"]).convert("RGB"))
        np.testing.assert_array_equal(example["hr"], fit(picture, 32))
        assert example["lr"].shape == (8, 8, 3) and example["attention"].shape == (1, 8, 8)


def test_held_out_pictures_are_not_trained_on(spoilt, tmp_path):
    """Also of tiles, of which a picture has many."""
    config = configuration(spoilt, data__crop="tiles", data__on_bad="skip", data__holdout=4)
    precompute.run(config, str(tmp_path))
    train, held = (records(tmp_path, split) for split in ("train", "eval"))
    names = [{example["name"] for example in part[0]} for part in (train, held)]
    assert not names[0] & names[1] and names[0] | names[1] == set(GOOD)
    assert len(train[0]) + len(held[0]) == sum(
        (h // 32) * (w // 32) for h, w, _ in (photograph(name).shape for name in GOOD)
    )


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


def test_own_evaluation_pictures_leave_all_others_to_training(album, tmp_path):
    precompute.run(configuration(album, data__eval="samples:photos/test"), str(tmp_path))
    assert len(records(tmp_path, "train")[0]) == len(GOOD)
    assert [e["name"] for e in records(tmp_path, "eval")[0]] == ["astronaut", "coffee"]


def test_bad_picture_stops_with_its_name(spoilt, tmp_path):
    for bad in BAD:
        folder = tmp_path / Path(bad).stem
        with pytest.raises(BadPicture) as caught:
            precompute.run(configuration(spoilt), str(folder))
        assert isinstance(caught.value, UserError) and caught.value.name == bad
        assert not list(folder.rglob("manifest.json"))
        (spoilt / bad).unlink()  # as the message says
    precompute.run(configuration(spoilt), str(tmp_path / "mended"))


def test_bad_pictures_are_skipped_counted_and_listed(spoilt, tmp_path):
    config = configuration(
        spoilt, data__on_bad="skip", data__eval="samples:photos/test", data__pictures_per_shard=4
    )
    precompute.run(config, str(tmp_path))
    train, manifest = records(tmp_path, "train")
    assert [example["name"] for example in train] == sorted(GOOD)
    assert (manifest["pictures"], manifest["examples"]) == (9, 6)
    assert len(manifest["files"]) == 3
    for bad, skipped in zip(BAD, manifest["skipped"], strict=True):
        assert bad in skipped
    assert "data.hr_size=32" in manifest["skipped"][2]


def test_only_bad_pictures_is_an_error(tmp_path):
    album = tmp_path / "thumbs"
    album.mkdir()
    for i in range(4):
        Image.fromarray(data.coffee()[:20, :20]).save(album / f"{i}.png")
    with pytest.raises(UserError) as caught:
        precompute.run(configuration(album, data__on_bad="skip"), str(tmp_path))
    folder = tmp_path / "records/train"
    for part in (str(album), "data.hr_size=32", "2 pictures were skipped", f"delete {folder}"):
        assert part in str(caught.value)
    assert not list((tmp_path / "records").rglob("manifest.json"))


def test_complete_records_are_left_alone_and_need_no_pictures(album, reference, monkeypatch):
    before = {name: path.stat().st_mtime_ns for name, path in all_files(reference).items()}
    monkeypatch.setattr(precompute, "open_source", None)
    # What the records do not depend on may change.
    config = configuration(
        album, attention__aggregate="mean", mask__lower_bound=0.5, data__threads=1, data__stride=16
    )
    precompute.run(config, str(reference))
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
    command = [sys.executable, "-m", "yoda_jax.main", "--config=configs/default.py"]
    command += ["--mode=precompute", f"--workdir={tmp_path}"]
    command += [f"--config.attention.{f}={config.attention[f]}" for f in attention]
    command += [f"--config.data.{field}={config.data[field]}" for field in fields]
    folder = tmp_path / "records/train"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if list(folder.glob("*00003-of-00004.part-*")):
                    break
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
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


CHANGES = {
    "attention__source": ("edges", "entropy"),
    "attention__cell": (4, 2),
    "attention__input_size": (32, 64),
    "data__scale": (4, 2),
    "data__hr_size": (32, 64),
    "data__border": ("pil", "matlab"),
    "data__crop": ("fit", "tiles"),
    "data__holdout": (2, 3),
    "data__pictures_per_shard": (1, 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_setting_is_named_with_both_values(album, reference, name):
    before, after = CHANGES[name]
    with pytest.raises(UserError) as caught:
        precompute.run(configuration(album, **{name: after}), str(reference))
    field = name.replace("__", ".")
    for part in (f"{field}={before!r}", repr(after), str(reference), "--config.data.records"):
        assert part in str(caught.value)


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

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
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


def test_records_folder_has_precedence_over_the_workdir(album, tmp_path):
    config = configuration(album, data__records=str(tmp_path / "own"))
    precompute.run(config, str(tmp_path / "unused"))
    assert (tmp_path / "own/train/manifest.json").exists()
    assert not os.path.exists(tmp_path / "unused")
