"""TFRecords of examples: written shard by shard, read at random with their checksums verified.

A folder of records holds the shards, an index beside each shard, `manifest.json`, and what
`tfds.builder_from_directory` needs. A shard exists under its name only when it is complete.
"""

import contextlib
import itertools
import json
import math
import os
import resource
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping

import google_crc32c
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import UInt8

from yoda_jax.errors import UserError
from yoda_jax.prefetch import prefetch
from yoda_jax.runs import in_bucket, put_in_place, write_whole

# TensorFlow only reads and writes files here: the accelerator's memory is JAX's.
tf.config.set_visible_devices([], "GPU")

FEATURES = tfds.features.FeaturesDict(
    {
        "name": tfds.features.Text(),
        "hr": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "lr": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "attention": tfds.features.Tensor(
            shape=(None, None, None), dtype=np.uint8, encoding="bytes"
        ),
        "attention_scale": tfds.features.Tensor(shape=(None,), dtype=np.float32),
        "place": tfds.features.Tensor(shape=(4,), dtype=np.int32),
    }
)
_NAME, _SPLIT = "yoda", "train"
_HEAD, _TAIL = struct.Struct("<QI"), struct.Struct("<I")  # a record's length; both with checksums
_MOST_PIXELS = 2**26  # of an example
_MOST_SHARDS = 8192  # that are kept open
_OPEN_FILES = 16  # of a thread, in a bucket or of more shards than that
_FRAME_BYTES = _HEAD.size + _TAIL.size


def shard_path(folder: epath.Path, shard: int, shards: int) -> epath.Path:
    """Where a shard lies, in the file naming of TFDS."""
    return folder / f"{_NAME}-{_SPLIT}.tfrecord-{shard:05d}-of-{shards:05d}"


def _index_path(shard: epath.Path) -> epath.Path:
    return shard.with_name(f"{shard.name}.json")


def write_shard(
    path: epath.Path, examples: Iterable[dict], notes: Mapping, threads: int = 1
) -> None:
    """Writes a shard, then its index, each whole or not at all.

    What notes hold after the last example goes into the index. Pictures are compressed in threads.
    A shard has one writer: what a killed one left of it is removed. Raises UserError where the
    disk does not take it.
    """
    for left_over in path.parent.glob(f"{path.name}*.part-*"):
        left_over.unlink()
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    offsets, position = [], 0
    with _naming(path), tf.io.TFRecordWriter(os.fspath(part)) as writer:
        for serialized in prefetch(_serialize, examples, threads):
            writer.write(serialized)
            offsets.append(position)
            position += len(serialized) + _FRAME_BYTES
        writer.flush()
    index = {"offsets": offsets, "bytes": position, **notes}
    with _naming(path):
        put_in_place(part, path)
        # The index last: it is what says that the shard is complete.
        write_whole(_index_path(path), json.dumps(index).encode())


@contextlib.contextmanager
def _naming(path: epath.Path) -> Iterator[None]:
    """Gives the path to an error of the disk, which has none where a file is being written."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        raise UserError(
            f"{path} could not be written ({why}); make room or mend rights there, or set "
            "--config.data.records to a folder on another disk, and run again: what is complete is "
            "kept."
        ) from error


def _serialize(example: dict) -> bytes:
    # File systems may hold names that are no UTF-8.
    name = example["name"].encode("utf-8", "surrogateescape")
    serialized = FEATURES.serialize_example({**example, "name": name})
    # Protocol buffers order the features differently in every process unless told not to.
    return tf.train.Example.FromString(serialized).SerializeToString(deterministic=True)


def read_index(path: epath.Path) -> dict | None:
    """The index of a complete shard, else None."""
    index = _index_path(path)

    def fits(found: dict) -> bool:
        positions = [0, *found["offsets"], found["bytes"]]
        return all(type(p) is int for p in positions) and positions == sorted(positions)

    return _read_json(index, fits) if path.exists() else None


def _read_json(path: epath.Path, fits: Callable[[dict], bool]) -> dict | None:
    """What a file holds, None where there is none; UserError where it does not fit."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        if not fits(found):
            raise ValueError("it holds other values")
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete the folder and run --mode=precompute again."
        ) from error
    return found


def write_manifest(folder: epath.Path, shards: int, manifest: Mapping) -> None:
    """Completes a folder: metadata for TFDS, then `manifest.json` with the shards' names."""
    paths = [shard_path(folder, i, shards) for i in range(shards)]
    indices = [read_index(path) for path in paths]
    template = tfds.core.ShardedFileTemplate(
        dataset_name=_NAME, data_dir=folder, split=_SPLIT, filetype_suffix="tfrecord"
    )
    split = tfds.core.SplitInfo(
        name=_SPLIT,
        shard_lengths=[len(index["offsets"]) for index in indices],
        num_bytes=sum(index["bytes"] for index in indices),
        filename_template=template,
    )
    files = [path.name for path in paths]
    with _naming(folder / "manifest.json"):
        tfds.folder_dataset.write_metadata(
            data_dir=os.fspath(folder), features=FEATURES, split_infos=[split], check_data=False
        )
        text = json.dumps({**manifest, "files": files}, indent=2)
        write_whole(folder / "manifest.json", text.encode())
    for left_over in folder.glob(f"{_NAME}-{_SPLIT}.tfrecord-*"):  # of other pictures
        if left_over.name.removesuffix(".json") not in files:
            left_over.unlink()


def read_manifest(folder: epath.Path) -> dict | None:
    """The manifest of a complete folder of records, else None."""

    def fits(found: dict) -> bool:
        return (
            all(isinstance(name, str) and name.isprintable() for name in found["files"])
            and all(isinstance(text, str) for text in found["skipped"])
            and all(type(found[count]) is int for count in ("examples", "pictures"))
            and isinstance(found["settings"], dict)
        )

    return _read_json(folder / "manifest.json", fits)


class Records:
    """The examples of a complete folder, by index; safe to read from several threads.

    Raises UserError where the folder is incomplete, a file lies outside of it, or a record's
    checksum is wrong.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = epath.Path(folder)
        self.manifest = read_manifest(self.folder)
        if self.manifest is None:
            raise UserError(
                f"{self.folder} holds no complete records (no manifest.json); run the same command "
                "with --mode=precompute first."
            )
        self._where: list[tuple[str, int, int]] = []
        for name in self.manifest["files"]:
            if os.path.basename(name) != name:
                raise UserError(
                    f"{self.folder}/manifest.json names the file {name!r}, expected one within the "
                    "folder; make the records again with --mode=precompute."
                )
            path = self.folder / name
            index = read_index(path)
            if index is None:
                raise UserError(
                    f"{path} or its index is missing, though manifest.json lists it; copy the "
                    "whole folder, or delete it and run --mode=precompute."
                )
            ends = itertools.pairwise([*index["offsets"], index["bytes"]])
            self._where += [(os.fspath(path), start, stop) for start, stop in ends]
        self._files: dict[str, int] = {}  # descriptors, which all threads share
        self._opening, self._of_thread = threading.Lock(), threading.local()
        self._keeps_open = len(self.manifest["files"]) <= _allow_files() // 2

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> dict:
        """One example: `name` (str), `hr`, `lr`, `attention`, `attention_scale`, `place`."""
        path, start, stop = self._where[index]
        try:
            return _parsed(_unframed(self._read(path, start, stop)))
        except Exception as error:  # decoders raise what they like
            raise UserError(
                f"Record {index} at byte {start} of {path} is damaged ({error}); delete that "
                "file and its .json, and run --mode=precompute to write it again."
            ) from error

    def _read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes start..stop-1 of a shard, at one go and without a position that is shared."""
        if in_bucket(path) or not self._keeps_open:
            files = self._of_thread.__dict__  # each with a position, and slow to open
            if path not in files:
                if len(files) >= _OPEN_FILES:
                    files.clear()
                files[path] = tf.io.gfile.GFile(path, "rb")
            files[path].seek(start)
            return files[path].read(stop - start)
        with self._opening:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._files[path])
        return os.pread(self._files[path], stop - start, start)


def _parsed(serialized: bytes) -> dict:
    """The example that `_serialize` took.

    FEATURES reads it too, but keeps other threads waiting for several times as long.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    name, hr, lr, heads = (
        features[key].bytes_list.value[0] for key in ("name", "hr", "lr", "attention/value")
    )
    shape = features["attention/shape"].int64_list.value
    example = {
        "hr": _picture("hr", hr),
        "lr": _picture("lr", lr),
        "attention": np.frombuffer(heads, np.uint8).reshape(shape),
        "attention_scale": np.array(features["attention_scale"].float_list.value, np.float32),
        "place": np.array(features["place"].int64_list.value, np.int32),
    }
    heads, size = example["attention"], example["hr"].shape
    top, left, height, width = example["place"].tolist()
    if heads.ndim != 3 or heads.size == 0 or example["attention_scale"].shape != heads.shape[:1]:
        raise ValueError("no maps of attention with a scale each")
    if not (0 <= top <= height - size[0] and 0 <= left <= width - size[1]):
        raise ValueError("a place outside of its picture")
    return {**example, "name": name.decode("utf-8", "surrogateescape")}


def _picture(name: str, png: bytes) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture of FEATURES; its size is read first, for its decoder takes any memory."""
    if math.prod(struct.unpack_from(">II", png, 16)) > _MOST_PIXELS:
        raise ValueError("a picture of more pixels than are written")
    return FEATURES[name].decode_example_np(png)


def _allow_files() -> int:
    """Lets this process open as many files as the system grants it; returns their number."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_SHARDS if most == resource.RLIM_INFINITY else min(most, 2 * _MOST_SHARDS)
    if wanted > allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return max(allowed, wanted)


def _unframed(frame: bytes) -> bytes:
    """A record without length and checksums; raises ValueError where one of them is wrong."""
    if len(frame) < _FRAME_BYTES:
        raise ValueError("its end is missing")
    (length, of_length), data = _HEAD.unpack_from(frame), frame[_HEAD.size : -_TAIL.size]
    if length != len(data) or of_length != _masked(frame[:8]):
        raise ValueError("its length is wrong")
    if _TAIL.unpack(frame[-_TAIL.size :])[0] != _masked(data):
        raise ValueError("its checksum is wrong")
    return data


def _masked(data: bytes) -> int:
    """The checksum as TFRecords keep it (tensorflow/core/lib/hash/crc32c.h)."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
