"""precompute: pictures -> records with attention, shared out over processes, resumable."""

import concurrent.futures
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from yoda_jax.attention.classical import classical_heads
from yoda_jax.data.batches import cut
from yoda_jax.data.examples import Heads, Preparation, examples
from yoda_jax.data.photos import BadPicture, Files, Load, Source, hold_out, open_source
from yoda_jax.data.records import (
    Records,
    read_index,
    read_manifest,
    shard_path,
    write_manifest,
    write_shard,
)
from yoda_jax.errors import UserError
from yoda_jax.jobs import build

_SUMMARISED = 256  # examples whose diffused fraction is looked at


def run(config: ConfigDict, workdir: str, splits: Sequence[str] = ("train", "eval")) -> None:
    """Writes what is missing of the training and evaluation records, and says what there is."""
    build.require_source(config)
    wanted = {split: build.record_folder(config, workdir, split) for split in splits}
    settings = {split: _settings(config, split) for split in wanted}
    done = {split: _complete(wanted[split], settings[split]) for split in wanted}
    if all(manifest is not None for manifest in done.values()):
        for split in done:
            _summarise(config, split, wanted[split], "already complete")
        return
    sources = _sources(config)
    # Complete ones first. Held-out pictures are drawn from those of training: where these have
    # changed since, both splits have to follow, or one picture ends up in both.
    for split in sorted(done, key=lambda split: done[split] is None):
        if done[split] is None or not config.data.eval:
            _write_split(config, split, sources[split], wanted[split], settings[split])


def _settings(config: ConfigDict, split: str) -> dict:
    """What the records of a split depend on; compared with what lies on disk."""
    data, attention = config.data, config.attention
    settings = {
        "data.train": data.train,
        "data.eval": data.eval,
        "data.holdout": 0 if data.eval else data.holdout,
        "data.crop": data.crop,
        "data.hr_size": data.hr_size,
        "data.stride": data.stride if data.crop == "tiles" else data.hr_size,
        "data.scale": data.scale,
        "data.border": data.border,
        "data.pictures_per_shard": data.pictures_per_shard,
        "attention.source": attention.source,
        "attention.input_size": attention.input_size,
        "attention.cell": attention.cell,
    }
    if data.eval:  # then neither split depends on the other's source
        del settings["data.eval" if split == "train" else "data.train"]
    return settings


def _compare(where: object, found: dict, expected: dict) -> None:
    different = [k for k in expected.keys() | found.keys() if found.get(k) != expected.get(k)]
    if different:
        name = min(different)
        raise UserError(
            f"{where} was made with {name}={found.get(name)!r}, this configuration says "
            f"{expected.get(name)!r}; set --config.data.records to another folder, or delete that "
            "one."
        )


def _complete(folder: Path, settings: dict) -> dict | None:
    manifest = read_manifest(epath.Path(folder))
    if manifest is not None:
        _compare(folder, manifest["settings"], settings)
    return manifest


def _sources(config: ConfigDict) -> dict[str, Source]:
    train = open_source(config.data.train, config.data.tfds_dir or None)
    if config.data.eval:
        return {
            "train": train,
            "eval": open_source(config.data.eval, config.data.tfds_dir or None),
        }
    rest, held_out = hold_out(train, config.data.holdout)
    return {"train": rest, "eval": held_out}


def _heads(config: ConfigDict) -> Heads:
    name, cell = config.attention.source, config.attention.cell

    def heads(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        return classical_heads(name, picture, (max(height // cell, 1), max(width // cell, 1)))

    return heads


def _write_split(
    config: ConfigDict, split: str, source: Source, folder: Path, settings: dict
) -> None:
    root = epath.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    per_shard = config.data.pictures_per_shard
    shards = -(-len(source) // per_shard)
    preparation, heads = build.preparation(config), _heads(config)
    mine = range(jax.process_index(), shards, jax.process_count())
    started, pictures = time.time(), 0
    for shard in mine:
        path = shard_path(root, shard, shards)
        start, stop = shard * per_shard, min((shard + 1) * per_shard, len(source))
        index = read_index(path)
        made_of = _made_of(source, start, stop)
        if index is not None:
            _compare(path, index["settings"], settings)
            if index["made_of"] == made_of:
                continue
        notes = {"settings": settings, "made_of": made_of, "pictures": stop - start,
                 "skipped": []}  # fmt: skip
        write_shard(
            path,
            _shard_examples(config, source.read(start, stop), preparation, heads, notes),
            notes,
        )
        pictures += stop - start
        rate = pictures / (time.time() - started)
        left = sum(min(per_shard, len(source) - s * per_shard) for s in mine if s > shard)
        logging.info(
            "%s: shard %d of %d written, %.1f pictures/s, %.0f s left",
            split, shard + 1, shards, rate, left / rate,
        )  # fmt: skip
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"records of {split} written")
    if jax.process_index() == 0:
        indices = [read_index(shard_path(root, i, shards)) for i in range(shards)]
        manifest = _manifest(settings, indices)
        if not manifest["examples"]:
            raise UserError(
                f"{source.spec} gave no example at data.hr_size={config.data.hr_size}: "
                f"{len(manifest['skipped'])} pictures were skipped; give larger or other pictures "
                f"and delete {root}."
            )
        write_manifest(root, shards, manifest)
        _summarise(config, split, folder, "written")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"manifest of {split} written")


def _made_of(source: Source, start: int, stop: int) -> int:
    """Tells whether the pictures start..stop-1 are still the same, by their names."""
    pictures = (
        [name for name, _ in source.files[start:stop]]
        if isinstance(source, Files)
        else source.indices[start:stop]
    )
    return zlib.crc32(repr(pictures).encode())


def _shard_examples(
    config: ConfigDict,
    pictures: Iterator[tuple[str, Load]],
    preparation: Preparation,
    heads: Heads,
    notes: dict,
) -> Iterator[dict]:
    """The examples of a shard in order, pictures prepared in threads a few ahead."""

    def prepare(picture: tuple[str, Load]) -> list[dict] | BadPicture:
        name, load = picture
        try:
            return list(examples(name, load(), preparation, heads))
        except BadPicture as bad:
            return bad

    threads = config.data.threads
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending: list[concurrent.futures.Future] = []

        def next_result() -> list[dict]:
            result = pending.pop(0).result()
            if isinstance(result, BadPicture):
                if config.data.on_bad == "stop":
                    raise result
                notes["skipped"].append(str(result))
                return []
            return result

        for picture in pictures:
            pending.append(pool.submit(prepare, picture))
            if len(pending) > 2 * threads:
                yield from next_result()
        while pending:
            yield from next_result()


def _manifest(settings: dict, indices: list[dict]) -> dict:
    return {
        "settings": settings,
        "pictures": sum(index["pictures"] for index in indices),
        "skipped": [s for index in indices for s in index["skipped"]],
        "examples": sum(len(index["offsets"]) for index in indices),
    }


def diffused_fractions(config: ConfigDict, records: Records) -> np.ndarray:
    """E[min(1, A + l)] of at most 256 examples spread over the records, with today's settings."""
    count = min(len(records), _SUMMARISED)
    attention, mask = config.attention, config.mask
    rows = (
        cut(records[int((i + 0.5) * len(records) / count)], attention.aggregate,
            attention.normalise_heads)
        for i in range(count)
    )  # fmt: skip
    return np.array([np.minimum(r["attention"] / 255 + mask.lower_bound, 1).mean() for r in rows])


def _summarise(config: ConfigDict, split: str, folder: Path, how: str) -> None:
    records = Records(folder)
    manifest, fractions = records.manifest, diffused_fractions(config, records)
    p10, p50, p90 = np.percentile(fractions, [10, 50, 90])
    logging.info(
        "%s records %s in %s: %d examples of %d pictures, %d skipped; diffused fraction at l=%g "
        "(%d examples): mean %.3f, p10 %.3f, p50 %.3f, p90 %.3f",
        split, how, folder, manifest["examples"], manifest["pictures"], len(manifest["skipped"]),
        config.mask.lower_bound, len(fractions), fractions.mean(), p10, p50, p90,
    )  # fmt: skip
    for skipped in manifest["skipped"]:
        logging.warning("skipped: %s", skipped)
