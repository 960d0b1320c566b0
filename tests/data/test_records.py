"""Records round-trip, are a TFDS folder, and notice every kind of damage."""

import io
import json
import os
import random
import resource
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image
from skimage import data

from yoda_jax.data import records
from yoda_jax.data.records import (
    Records,
    read_index,
    read_manifest,
    shard_path,
    write_manifest,
    write_shard,
)
from yoda_jax.errors import UserError

COUNTS = (3, 0, 4)  # of examples in each shard; one that lost all its pictures is empty

TOTALS = {"examples": 0, "pictures": 0, "skipped": []}


def example(i):
    rng = np.random.default_rng(i)
    y, x = rng.integers(0, 300, 2)
    return {
        "name": f"abteilung/bild {i} \u00e4\udcff.png",  # with a byte that is no UTF-8
        "hr": data.coffee()[y : y + 16, x : x + 24],
        "lr": data.coffee()[y : y + 4, x : x + 6],
        "attention": rng.integers(0, 256, (2, 3, 5), np.uint8),
        "attention_scale": rng.random(2, np.float32) * np.float32(1e-3),
        "place": np.array([y, x, 400, 600], np.int32),
    }


EXAMPLES = [example(i) for i in range(sum(COUNTS))]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("records"))
    start = 0
    for i, count in enumerate(COUNTS):
        write_shard(shard_path(folder, i, 3), EXAMPLES[start : start + count], {"pictures": count})
        start += count
    write_manifest(folder, 3, {"settings": {"data.scale": 4}, **TOTALS})
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "copy")
    return epath.Path(tmp_path / "copy")


def pristine_bytes(folder):
    """The records as they lie in a folder's shards."""
    shards = [str(shard_path(folder, i, len(COUNTS))) for i in range(len(COUNTS))]
    return [record.numpy() for record in tf.data.TFRecordDataset(shards)]


def assert_same(found, expected):
    assert found["name"] == expected["name"]
    for key in set(expected) - {"name"}:
        assert found[key].dtype == expected[key].dtype, key
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def test_round_trip_bit_for_bit(pristine):
    records = Records(str(pristine))
    assert len(records) == len(EXAMPLES)
    for i in (4, 0, 6, 2, 2, 5, 1, 3):
        assert set(records[i]) == set(EXAMPLES[i])
        assert_same(records[i], EXAMPLES[i])


def test_an_example_is_what_tfds_reads(pristine):
    for i, read in enumerate(pristine_bytes(pristine)):
        expected = records.FEATURES.deserialize_example_np(read)
        expected["name"] = os.fsdecode(expected["name"])
        assert_same(Records(pristine)[i], expected)


def test_is_a_tfds_folder(pristine):
    builder = tfds.builder_from_directory(pristine)
    assert builder.info.splits["train"].num_examples == len(EXAMPLES)
    assert builder.info.splits["train"].shard_lengths == list(COUNTS)
    dataset = builder.as_dataset(split="train")
    found = {os.fsdecode(e["name"]): e for e in tfds.as_numpy(dataset)}
    assert len(found) == len(EXAMPLES)
    for expected in EXAMPLES:
        assert_same({**found[expected["name"]], "name": expected["name"]}, expected)


def test_offsets_are_those_of_tensorflows_reader(pristine):
    """The bytes between two offsets are one record; the last one ends the file."""
    for i, count in enumerate(COUNTS):
        path = shard_path(pristine, i, 3)
        index = read_index(path)
        lengths = [len(r.numpy()) + 16 for r in tf.data.TFRecordDataset(str(path))]
        assert len(index["offsets"]) == count
        assert index["offsets"] == np.cumsum([0, *lengths])[:count].tolist()
        assert index["bytes"] == sum(lengths) == path.stat().length
        assert index["pictures"] == count


def test_notes_are_taken_after_the_last_example(tmp_path):
    notes, path = {"skipped": []}, shard_path(epath.Path(tmp_path), 0, 1)

    def source():
        yield EXAMPLES[0]
        notes["skipped"].append("p.png")

    write_shard(path, source(), notes)
    assert read_index(path)["skipped"] == ["p.png"]


def test_reads_from_many_threads_at_once(pristine):
    records = Records(pristine)
    order = list(range(len(EXAMPLES))) * 20
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        for i, found in zip(order, pool.map(records.__getitem__, order), strict=True):
            assert_same(found, EXAMPLES[i])


def test_every_flipped_byte_is_noticed(folder):
    path = shard_path(folder, 0, 3)
    whole = path.read_bytes()
    offsets = [*read_index(path)["offsets"], len(whole)]
    framing = [*range(offsets[1], offsets[1] + 12), *range(offsets[2] - 4, offsets[2])]
    for position in [*framing, *range(offsets[1] + 12, offsets[2] - 4, 11)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        records = Records(folder)
        with pytest.raises(UserError) as caught:
            records[1]
        for part in ("Record 1 ", str(path), "--mode=precompute"):
            assert part in str(caught.value)
        assert_same(records[0], EXAMPLES[0])
        assert_same(records[2], EXAMPLES[2])


def changed(serialized, key, value):
    """A record in which a feature of bytes has another value, or none."""
    found = tf.train.Example.FromString(serialized)
    found.features.feature[key].bytes_list.value[:] = value
    return found.SerializeToString()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: b"no record",
        lambda whole: whole[:-9],
        lambda whole: changed(whole, "name", []),
        lambda whole: changed(whole, "hr", [b"no PNG"]),
        lambda whole: changed(whole, "lr", [b""]),
        lambda whole: changed(whole, "attention/value", [b"short"]),
    ],
    ids=["empty", "other bytes", "cut off", "no name", "no picture", "no LR picture", "no maps"],
)
def test_a_record_of_something_else_is_named_though_its_checksums_hold(folder, spoil):
    path, written = shard_path(folder, 0, 3), pristine_bytes(folder)[: COUNTS[0]]
    written[1] = spoil(written[1])
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in written:
            writer.write(record)
    offsets = np.cumsum([0, *(len(record) + 16 for record in written)]).tolist()
    index = path.with_name(f"{path.name}.json")
    index.write_text(json.dumps({"offsets": offsets[:-1], "bytes": offsets[-1]}))
    with pytest.raises(UserError, match=rf"Record 1 .*{path.name} is damaged"):
        Records(folder)[1]
    assert_same(Records(folder)[2], EXAMPLES[2])


def test_truncated_shard_keeps_what_is_whole(folder):
    path = shard_path(folder, 2, 3)
    whole = path.read_bytes()
    second = read_index(path)["offsets"][1]
    for length in (0, 5, 12, second, second + 5, second + 12, second + 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        records = Records(folder)
        with pytest.raises(UserError, match=path.name):
            records[6]
        if length >= second:
            assert_same(records[3], EXAMPLES[3])


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_missing_shard_or_index_is_named(folder, suffix):
    path = shard_path(folder, 2, 3)
    path.with_name(path.name + suffix).unlink()
    assert read_index(path) is None
    with pytest.raises(UserError, match=f"{path.name} or its index is missing"):
        Records(folder)


def test_missing_manifest_says_what_to_run(folder):
    (folder / "manifest.json").unlink()
    assert read_manifest(folder) is None
    with pytest.raises(UserError) as caught:
        Records(folder)
    assert str(folder) in str(caught.value) and "--mode=precompute" in str(caught.value)


@pytest.mark.parametrize("form", ["../{}", "sub/../../{}", "{outside}/{}", "./{}"])
def test_files_outside_the_folder_are_refused(folder, form):
    """Even where they are perfect records."""
    outside = folder.parent
    for suffix in ("", ".json"):
        source = shard_path(folder, 0, 3)
        source.with_name(source.name + suffix).copy(outside / f"evil{suffix}")
    name = form.format("evil", outside=outside)
    manifest = read_manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": [name]}))
    with pytest.raises(UserError) as caught:
        Records(folder)
    assert repr(name) in str(caught.value) and "within the folder" in str(caught.value)


def test_interrupted_shard_does_not_exist(tmp_path):
    path = shard_path(epath.Path(tmp_path), 0, 1)

    def interrupted():
        yield from EXAMPLES[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, interrupted(), {})
    assert not path.exists() and read_index(path) is None
    assert not [p for p in tmp_path.iterdir() if ".part-" not in p.name]
    write_shard(path, EXAMPLES[:2], {})
    assert len(read_index(path)["offsets"]) == 2


def test_rewritten_shard_never_has_the_new_index_before_its_bytes(tmp_path, monkeypatch):
    path = shard_path(epath.Path(tmp_path), 0, 1)
    write_shard(path, EXAMPLES[:3], {"made_of": "old"})
    replaced = []

    def interrupted(part, target):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        return os.replace(part, target)

    monkeypatch.setattr(type(path), "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shard(path, EXAMPLES[3:], {"made_of": "new"})
    assert read_index(path)["made_of"] == "old"


def test_nothing_temporary_is_left(pristine):
    shards = [shard_path(pristine, i, 3).name for i in range(3)]
    expected = {*shards, *(f"{s}.json" for s in shards)}
    expected |= {"manifest.json", "dataset_info.json", "features.json"}
    assert {p.name for p in pristine.iterdir()} == expected
    assert read_manifest(pristine) == {"settings": {"data.scale": 4}, **TOTALS, "files": shards}


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": [')
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Records(tmp_path)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    path = shard_path(epath.Path(tmp_path), 0, 1)
    left_over = tmp_path / f"{path.name}.part-1"
    left_over.write_bytes(b"half a shard")
    write_shard(path, [], {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


def test_more_shards_than_files_that_may_be_open_are_read_likewise(tmp_path, monkeypatch):
    folder, shards = epath.Path(tmp_path), 40
    for shard in range(shards):
        written = [example(2 * shard), example(2 * shard + 1)]
        write_shard(shard_path(folder, shard, shards), written, {})
    write_manifest(folder, shards, {"settings": {}, **TOTALS})
    kept = Records(folder)
    monkeypatch.setattr(records, "_allow_files", lambda: shards)
    few = Records(folder)
    order = np.random.default_rng(0).permutation(2 * shards).tolist()
    with ThreadPoolExecutor(4) as pool:
        both = zip(*(pool.map(reader.__getitem__, order) for reader in (kept, few)), strict=True)
        for one, other in both:
            for name, value in one.items():
                np.testing.assert_array_equal(value, other[name])
    path = shard_path(folder, 3, shards)
    path.write_bytes(path.read_bytes()[:-1])
    for reader in (kept, few):
        with pytest.raises(UserError, match=r"Record 7 .* is damaged"):
            reader[7]


def test_a_job_may_open_as_many_files_as_the_system_grants():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allowed = records._allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, before[1])
        assert allowed > 256 or before[1] == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_size_of_a_picture_is_read_before_it_is_decoded():
    """A header that claims 60,000 times 60,000 pixels would have the decoder take 10 GB."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture, "PNG")
    png = bytearray(picture.getvalue())
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(ValueError, match="more pixels"):
        records._picture("hr", bytes(png))
