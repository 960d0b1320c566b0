"""A small folder of records, and what reads its shard, its index and its manifest."""

import functools
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
from etils import epath
from foreign_pictures import PHOTO

from yoda_jax.attention.maps import Reading
from yoda_jax.data import inventory
from yoda_jax.data.batches import cut
from yoda_jax.data.records import Records, shard_path, write_manifest, write_shard


@functools.cache
def shard(folder: Path) -> Path:
    """The only shard of complete records, which this makes in a folder."""
    examples = [
        {
            "name": f"picture {i} \udcff.png",
            "hr": PHOTO,
            "lr": PHOTO[::4, ::4],
            "attention": np.arange(30, dtype=np.uint8).reshape(2, 3, 5),
            "attention_scale": np.ones(2, np.float32),
            "place": np.array([0, 0, 16, 24], np.int32),
        }
        for i in range(2)
    ]
    path = shard_path(epath.Path(folder), 0, 1)
    counts = {"pictures": 2, "examples": 2, "skipped": []}
    write_shard(path, examples, {"made_of": {"a.png": "1 2"}, "settings": {}, **counts})
    settings = {"data.scale": 4, "data.train": "folder:a", "data.border": "pil"}
    write_manifest(epath.Path(folder), 1, {"settings": settings, **counts})
    return Path(path)


def reader(folder: Path, name: str) -> Callable[[bytes], None]:
    """Opens and reads records of which a file of this name is another one."""

    def read(file: bytes) -> None:
        path = shard(folder).with_name(name)
        whole = path.read_bytes()
        path.write_bytes(file)
        try:
            records = Records(folder)
            for index in range(min(len(records), 3)):
                cut(records[index], Reading())
            inventory.pictures(records.folder)
            inventory.check_settings(records.folder, {"data.scale": 4, "data.train": "folder:a"})
        finally:
            path.write_bytes(whole)

    return read


def split_records(file: bytes) -> list[bytes]:
    """The records of a shard, without lengths and checksums."""
    parts, position = [], 0
    while position < len(file):
        (length,) = struct.unpack_from("<Q", file, position)
        parts.append(file[position + 12 : position + 12 + length])
        position += 16 + length
    return parts


def join_records(parts: list[bytes]) -> bytes:
    """A shard of records, with the right lengths and checksums."""

    def masked(data: bytes) -> bytes:
        value = google_crc32c.value(data)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    frames = []
    for part in parts:
        length = struct.pack("<Q", len(part))
        frames.append(length + masked(length) + part + masked(part))
    return b"".join(frames)
