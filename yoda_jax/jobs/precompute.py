"""precompute: pictures -> records with attention, shared out over processes, resumable."""

import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from yoda_jax.data.examples import Prepared, examples, prepare
from yoda_jax.data.photos import BadPicture, Files, Load, Source, hold_out, open_source
from yoda_jax.data.records import (
    read_index,
    read_manifest,
    shard_path,
    write_manifest,
    write_shard,
)
from yoda_jax.errors import UserError
from yoda_jax.jobs import build, summary, validation
from yoda_jax.prefetch import prefetch

_LOG_SECONDS = 10


def run(config: ConfigDict, workdir: str, splits: Sequence[str] = ("train", "eval")) -> None:
    """Writes what is missing of the training and evaluation records, and says what there is."""
    validation.require_source(config)
    wanted = {split: build.record_folder(config, workdir, split) for split in splits}
    expected = {split: settings(config, split) for split in wanted}
    done = {split: _complete(wanted[split], expected[split]) for split in wanted}
    if all(manifest is not None for manifest in done.values()):
        if None in expected[splits[0]].values():
            logging.warning(
                "attention.weights=%s was not found; the records were made with %s",
                config.attention.weights,
                done[splits[0]]["settings"]["attention.weights"],
            )
        for split in done:
            summary.report(config, split, wanted[split], "already complete")
        return
    sources, attention = _sources(config), build.attention(config)
    # Complete ones first. Held-out pictures are drawn from those of training: where these have
    # changed since, both splits have to follow, or one picture ends up in both.
    for split in sorted(done, key=lambda split: done[split] is None):
        if done[split] is None or not config.data.eval:
            _write_split(config, split, sources[split], wanted[split], expected[split], attention)


def settings(config: ConfigDict, split: str) -> dict:
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
        "data.resampling": data.resampling,
        "data.pictures_per_shard": data.pictures_per_shard,
        "attention.source": attention.source,
        "attention.input_size": attention.input_size,
        **build.attention_settings(config),
    }
    if data.eval:  # then neither split depends on the other's source
        del settings["data.eval" if split == "train" else "data.train"]
    return settings


def _compare(where: object, found: dict, expected: dict) -> None:
    """Raises UserError for a setting that differs; one that is expected as None is not known."""
    different = [
        k
        for k in expected.keys() | found.keys()
        if expected.get(k, ...) is not None and found.get(k) != expected.get(k)
    ]
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


def _write_split(
    config: ConfigDict,
    split: str,
    source: Source,
    folder: Path,
    settings: dict,
    attention: build.Attention,
) -> None:
    root = epath.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    per_shard = config.data.pictures_per_shard
    shards = -(-len(source) // per_shard)

    def write_shards() -> None:
        missing = []
        for shard in range(jax.process_index(), shards, jax.process_count()):
            path = shard_path(root, shard, shards)
            start, stop = shard * per_shard, min((shard + 1) * per_shard, len(source))
            index, made_of = read_index(path), _made_of(source, start, stop)
            if index is not None:
                _compare(path, index["settings"], settings)
            if index is None or index["made_of"] != made_of:
                missing.append((path, start, stop, made_of))
        progress = _Progress(split, sum(stop - start for _, start, stop, _ in missing))
        for path, start, stop, made_of in missing:
            notes = {
                "settings": settings,
                "made_of": made_of,
                "pictures": stop - start,
                "skipped": [],
            }
            pictures = map(progress.count, source.read(start, stop))
            examples = _shard_examples(config, pictures, attention, notes)
            write_shard(path, examples, notes, config.data.threads)

    def complete() -> None:
        if jax.process_index() == 0:
            write_manifest(root, shards, _manifest(config, source, root, shards, settings))
            summary.report(config, split, folder, "written")
            summary.write_sheet(config, folder)

    _together(write_shards)
    _together(complete)


def _together(step: Callable[[], None]) -> None:
    """Runs a step in every process and waits for all; where one fails, the others end as well."""
    failure: Exception | None = None
    try:
        step()
    except Exception as error:  # raised again below, once the others know
        failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(failure is not None))
        if failure is None and failed.any():
            raise UserError(
                f"Process {int(failed.argmax())} could not do its part of the pre-computation; "
                "its own message says why."
            )
    if failure is not None:
        raise failure


class _Progress:
    """Logs pictures per second and the time left every ten seconds."""

    def __init__(self, split: str, pictures: int) -> None:
        self._split, self._pictures, self._done = split, pictures, 0
        self._started = self._last = time.time()

    def count(self, picture: tuple[str, Load]) -> tuple[str, Load]:
        """Passes a picture on."""
        now = time.time()
        if self._done and now - self._last > _LOG_SECONDS:
            self._last, rate = now, self._done / (now - self._started)
            logging.info(
                "%s: %d of %d pictures, %.1f pictures/s, %.0f s left",
                self._split,
                self._done,
                self._pictures,
                rate,
                (self._pictures - self._done) / rate,
            )
        self._done += 1
        return picture


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
    attention: build.Attention,
    notes: dict,
) -> Iterator[dict]:
    """The examples of a shard in order: threads prepare pictures, the attention's devices follow,
    and whoever takes the examples writes meanwhile.
    """
    preparation = build.preparation(config, attention.stride)

    def prepared(picture: tuple[str, Load]) -> Prepared | BadPicture:
        name, load = picture
        try:
            return prepare(name, load(), preparation)
        except BadPicture as bad:
            return bad

    def good() -> Iterator[Prepared]:
        for result in prefetch(prepared, pictures, config.data.threads):
            if not isinstance(result, BadPicture):
                yield result
            elif config.data.on_bad == "stop":
                raise result
            else:
                notes["skipped"].append(str(result))

    whole, looked_at = itertools.tee(good())
    for picture, heads in zip(whole, attention(p.input for p in looked_at), strict=True):
        yield from examples(picture, heads, preparation)


def _manifest(
    config: ConfigDict, source: Source, root: epath.Path, shards: int, settings: dict
) -> dict:
    indices = [read_index(shard_path(root, i, shards)) for i in range(shards)]
    if None in indices:
        raise UserError(
            f"Shard {indices.index(None)} of {root}, written by another process, cannot be seen "
            "here; set --config.data.records to a folder on a disk that all processes share."
        )
    skipped = [s for index in indices for s in index["skipped"]]
    examples = sum(len(index["offsets"]) for index in indices)
    if not examples:
        raise UserError(
            f"{source.spec} gave no example at data.hr_size={config.data.hr_size}: "
            f"{len(skipped)} pictures were skipped; give larger or other pictures and delete "
            f"{root}."
        )
    return {
        "settings": settings,
        "pictures": sum(index["pictures"] for index in indices),
        "skipped": skipped,
        "examples": examples,
    }
