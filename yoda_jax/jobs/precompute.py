"""precompute: pictures -> records with attention, shared out over processes, resumable."""

import itertools
import zlib
from collections.abc import Iterator, Sequence

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from yoda_jax.configuration import build, fields, inference, restore
from yoda_jax.data import contents, inventory
from yoda_jax.data.catalogue import Load
from yoda_jax.data.decode import silent_decoders
from yoda_jax.data.examples import Prepared, examples, prepare
from yoda_jax.data.photos import BadPicture, Source, open_splits
from yoda_jax.data.records import read_manifest, shard_path, write_shard
from yoda_jax.errors import UserError
from yoda_jax.evaluation import records_report
from yoda_jax.logs import Eta
from yoda_jax.prefetch import prefetch
from yoda_jax.processes import decided, is_first, together
from yoda_jax.runs import Run
from yoda_jax.training.checkpoint_folder import CheckpointFolder

SPLITS = ("train", "eval")


def run(config: ConfigDict, workdir: str, splits: Sequence[str] = SPLITS) -> None:
    """Writes what is missing of the training and evaluation records, and says what there is.

    Records of pictures that have changed since are made anew, shard by shard; but where a training
    was begun on them in this workdir they stay, and a warning says how the pictures differ. A shard
    that was deleted is written again in either case.
    """
    fields.require_source(config)
    where = Run(workdir)
    folders = {split: where.records(split, config.data.records) for split in SPLITS}
    expected = {split: settings(config, split) for split in splits}
    plans = decided(lambda: _plan(config, expected, folders, _is_begun(where)))
    if not plans:
        together(lambda: _report(config, expected, folders) if is_first() else None)
        return
    sources = together(lambda: _same_sources(config, plans))
    attention = together(lambda: _attention(config))
    for split, plan in plans.items():
        _write_split(
            config, split, sources[split], folders[split], plan, expected[split], attention
        )


def _attention(config: ConfigDict) -> inference.Attention:
    if config.attention.source != inference.ENCODER:
        return inference.attention(config)
    config = restore.with_encoder(config)
    return inference.attention(config, restore.encoder(config))


def _report(config: ConfigDict, expected: dict[str, dict], folders: dict[str, epath.Path]) -> None:
    for split, wanted in expected.items():
        if None in wanted.values():
            logging.warning(
                "attention.weights=%s was not found; the records were made with %s",
                config.attention.weights,
                read_manifest(folders[split])["settings"]["attention.weights"],
            )
        records_report.report(_masking(config), split, folders[split], "already complete")


def _masking(config: ConfigDict) -> records_report.Masking:
    return records_report.Masking(inference.reading(config), config.mask.lower_bound)


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
        **inference.attention_settings(config),
    }
    if attention.source == inference.ENCODER:
        settings["attention.weights"] = restore.encoder_digest(config)
    if data.eval:  # then neither split depends on the other's source
        del settings["data.eval" if split == "train" else "data.train"]
    return settings


def _is_begun(where: Run) -> bool:
    """Whether a training in the folder of a run, or in one below it, has saved anything."""
    folders = [where.folder]
    for _ in range(3):  # a run; halves of a comparison; trainings of a study
        if any(CheckpointFolder(folder / "checkpoints").steps() for folder in folders):
            return True
        inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        folders = [path for path in inside if path.is_dir()]
    return False


def _open(config: ConfigDict) -> dict[str, Source | UserError]:
    data = config.data
    return open_splits(data.train, data.eval, data.holdout, data.tfds_dir or None)


def _plan(
    config: ConfigDict, expected: dict[str, dict], folders: dict[str, epath.Path], begun: bool
) -> dict[str, dict]:
    """Of each split that is to be written: its missing shards, their number, and its pictures.

    Raises UserError for records of other settings, for missing ones whose pictures cannot be had,
    and where pictures of evaluation are in training too.
    """
    sources, plans = _open(config), {}
    stored = {split: inventory.pictures(folder) for split, folder in folders.items()}
    prints = dict(stored)
    for split in expected:
        if not isinstance(sources[split], UserError):
            prints[split] = sources[split].prints()
    # A training that was begun goes on with what its records hold.
    _check_shared(config, {s: begun and stored[s] or prints[s] for s in prints})
    for split, wanted in expected.items():
        folder, source, per_shard = folders[split], sources[split], config.data.pictures_per_shard
        complete = (folder / "manifest.json").exists()
        if isinstance(source, UserError):
            if not complete:
                raise source
            inventory.check_settings(folder, wanted)
            continue
        shards, missing = inventory.missing(folder, prints[split], per_shard, wanted)
        deleted = inventory.deleted(folder, shards, missing)
        if begun and deleted != missing:
            logging.warning(
                "the %s records in %s are not of the pictures that are there now (%s), but a "
                "training was begun on them and keeps them; for the new ones, take another "
                "--workdir",
                split,
                folder,
                contents.changes(stored[split], prints[split]),
            )
        lacking = deleted if begun else missing
        if lacking or not complete:
            plans[split] = {"shards": shards, "missing": lacking, "names": _checksum(source)}
    return plans


def _check_shared(config: ConfigDict, prints: dict[str, dict[str, str]]) -> None:
    """Raises UserError where evaluation pictures are training pictures."""
    pairs = contents.shared(prints["eval"], prints["train"])
    if pairs and config.data.eval:
        raise UserError(
            f"{len(pairs)} pictures of --config.data.eval={config.data.eval} are in "
            f"data.train={config.data.train} as well, first {pairs[0][0]} (there {pairs[0][1]}), "
            "and figures on them would not be of pictures held out; name other ones, or hold some "
            'of data.train out by "--config.data.eval=" with --config.data.holdout=N.'
        )
    if pairs:
        logging.warning(
            "%d held-out pictures are in training as well by other names, first %s, which is %s; "
            "remove the copies and run again",
            len(pairs),
            *pairs[0],
        )


def _checksum(source: Source) -> int:
    """Of the pictures' names in their order."""
    return zlib.crc32(repr(source.names).encode("utf-8", "surrogateescape"))


def _same_sources(config: ConfigDict, plans: dict[str, dict]) -> dict[str, Source]:
    """The pictures of each split, which this process has to see as the first one does."""
    sources = _open(config)
    for split, plan in plans.items():
        if isinstance(sources[split], UserError):
            raise sources[split]
        if _checksum(sources[split]) != plan["names"]:
            raise UserError(
                f"Process {jax.process_index()} does not see the pictures of {sources[split].spec} "
                "that the first process sees; name a folder that all share, and run again once "
                "nothing is copied into it any more."
            )
    return sources


def _write_split(
    config: ConfigDict,
    split: str,
    source: Source,
    root: epath.Path,
    plan: dict,
    settings: dict,
    attention: inference.Attention,
) -> None:
    per_shard, shards = config.data.pictures_per_shard, plan["shards"]

    def begin() -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "manifest.json").unlink(missing_ok=True)  # the records are no longer complete

    def write_shards() -> None:
        mine = [
            (shard_path(root, i, shards), i * per_shard, min((i + 1) * per_shard, len(source)))
            for i in plan["missing"][jax.process_index() :: jax.process_count()]
        ]
        eta, done = Eta(split, sum(stop - start for _, start, stop in mine)), itertools.count()
        for path, start, stop in mine:
            notes = {
                "settings": settings,
                "made_of": source.prints(start, stop),
                "pictures": stop - start,
                "skipped": [],
            }

            def load(picture: tuple[str, Load]) -> tuple[str, Load]:
                eta.reached(next(done))
                return picture

            pictures = map(load, source.read(start, stop))
            examples = _shard_examples(config, pictures, attention, notes)
            write_shard(path, examples, notes, config.data.threads)

    def complete() -> None:
        inventory.complete(root, shards, settings)
        records_report.report(_masking(config), split, root, "written")
        records_report.write_sheet(_masking(config), root)

    together(lambda: begin() if is_first() else None)
    with silent_decoders():
        together(write_shards)
    together(lambda: complete() if is_first() else None)
    together(lambda: inventory.wait_for(root / "manifest.json"))


def _shard_examples(
    config: ConfigDict,
    pictures: Iterator[tuple[str, Load]],
    attention: inference.Attention,
    notes: dict,
) -> Iterator[dict]:
    """The examples of a shard in order: threads prepare pictures, the attention's devices follow,
    and whoever takes the examples writes meanwhile.
    """
    preparation = build.preparation(config, attention.stride)
    limit = config.data.max_megapixels * 1_000_000

    def prepared(picture: tuple[str, Load]) -> Prepared | BadPicture:
        name, load = picture
        try:
            return prepare(name, load(limit), preparation)
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
