"""What reads foreign bytes: of each format small real files, and their reader."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import foreign_pictures as pictures
import foreign_records as records
import foreign_weights as weights


@dataclasses.dataclass(frozen=True)
class Format:
    """Files of a format, and what reads one as a job does: it raises UserError for a bad one.

    `split` takes a file apart into what has lengths and checksums; `join` makes a file of these
    parts with the right ones, so that what is altered in them gets past the first check.
    """

    files: Callable[[], Sequence[bytes]]
    read: Callable[[bytes], object]
    split: Callable[[bytes], list[bytes]] | None = None
    join: Callable[[list[bytes]], bytes] | None = None


def formats(folder: Path) -> dict[str, Format]:
    """All of them by name; those that are read by their paths are written to the folder."""
    shard = "yoda-train.tfrecord-00000-of-00001"

    def of_records(name: str, *parts: Callable) -> Format:
        return Format(
            lambda: [records.shard(folder).with_name(name).read_bytes()],
            records.reader(folder, name),
            *parts,
        )

    def of_weights(files: Callable[[], list[bytes]], ending: str, *parts: Callable) -> Format:
        return Format(files, weights.reader(folder / f"weights.{ending}"), *parts)

    return {
        "records": of_records(shard, records.split_records, records.join_records),
        "manifest": of_records("manifest.json"),
        "index": of_records(f"{shard}.json"),
        "safetensors": of_weights(weights.safetensors_files, "safetensors"),
        "npz": of_weights(weights.npzs, "npz", weights.split_zip, weights.join_zip),
        "pt": of_weights(weights.torches, "pt", weights.split_zip, weights.join_zip),
        "onnx": of_weights(weights.onnxes, "onnx"),
        "png": Format(pictures.pngs, pictures.picture, pictures.split_png, pictures.join_png),
        "jpeg": Format(pictures.jpegs, pictures.picture),
        "tiff": Format(pictures.tiffs, pictures.picture),
        **{
            kind.lower(): Format(functools.partial(pictures.others, kind), pictures.picture)
            for kind in ("WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
        },
    }
