"""study: variants of one configuration, on the same held-out pictures."""

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.evaluation.report import write_whole
from yoda_jax.jobs import (
    build,
    evaluate,
    parts,
    precompute,
    study_report,
    summary,
    train,
    validation,
)
from yoda_jax.training.checkpoints import Checkpoints

# What changes neither weights nor pictures.
_IRRELEVANT = (
    "mode",
    "workdir",
    "study",
    "data.records",
    "data.threads",
    "data.prefetch",
    "data.tfds_dir",
    "attention.weights",
    "attention.batch_size",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_pictures",
    "train.offset_warning",
    "train.profile_at",
    "eval.sheet_pictures",
)


class Arm(NamedTuple):
    """A variant: fields ("mask.enabled": value) set in training, and those set in sampling too."""

    label: str
    train: Mapping[str, Any]
    sample: Mapping[str, Any]


def run(config: ConfigDict, workdir: str) -> None:
    """Trains what the arms share once, samples each arm, and writes study.md and study.png.

    Arms with the same training fields (but for train.steps) share one training, which goes on from
    the fewest steps to the most. Everything done is kept: a stopped study goes on where it was.
    """
    arms = [Arm(*arm) for arm in config.study.arms]
    plain = parts.complete(_with(config, {"study.arms": ()}))
    _check(plain, arms)
    both = [_configurations(plain, workdir, arm) for arm in arms]
    for trained in {trained.data.records: trained for trained, _ in both}.values():
        precompute.run(trained, workdir)
    for sampled in {sampled.data.records: sampled for _, sampled in both}.values():
        precompute.run(sampled, workdir, splits=("eval",))
    results: dict[str, list[list[dict]]] = {arm.label: [] for arm in arms}

    def order(arm: Arm) -> tuple[str, int]:
        return _key(arm), _configurations(plain, "", arm)[0].train.steps

    for arm in sorted(arms, key=order):
        for seed in range(config.seed, config.seed + config.study.train_seeds):
            results[arm.label].append(_run_arm(plain, workdir, arm, seed))
    if jax.process_index() == 0:
        table = study_report.table(config, results)
        write_whole(Path(workdir) / "study.md", f"{table}\n".encode())
        print(f"\n{table}\n\ntable   {Path(workdir) / 'study.md'}")
        if config.study.curves:
            png = io.BytesIO()
            study_report.curves(results).savefig(png, format="png", dpi=110)
            write_whole(Path(workdir) / "study.png", png.getvalue())
            print(f"curves  {Path(workdir) / 'study.png'}")
        print(f"figures {Path(workdir) / 'results'}")


def _check(config: ConfigDict, arms: Sequence[Arm]) -> None:
    """Raises UserError for any arm that could not be run, before the first is begun."""
    labels = [arm.label for arm in arms]
    if not arms or len(set(labels)) < len(labels):
        raise UserError(f"--config.study.arms must be arms of different labels, found {labels}.")
    if config.study.reference not in ("", *labels):
        raise UserError(
            f"--config.study.reference must be one of {', '.join(labels)}, found "
            f"{config.study.reference!r}."
        )
    if config.data.records:
        raise UserError(
            f"--config.data.records must not be set in a study, found {config.data.records!r}: its "
            "arms keep records of their own in the workdir."
        )
    points: dict[tuple, str] = {}  # of the curves
    for arm in arms:
        trained, sampled = _configurations(config, "", arm)
        for part in (trained, sampled):
            validation.validate(part)
            train.check_batches(part)
        point = (study_report.curve(arm.label), trained.train.batch_size, trained.train.steps)
        other = points.setdefault(point, arm.label)
        if config.study.curves and other != arm.label:
            raise UserError(
                f"--config.study.curves needs one arm for each curve (a label up to its first "
                f"comma), batch size and number of steps, found {other!r} and {arm.label!r}; give "
                "them other labels."
            )


def _with(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """A copy with fields ("data.scale": 4) set; raises UserError where there is no such field."""
    changed = config.copy_and_resolve_references()
    for name, value in fields.items():
        group, _, field = name.rpartition(".")
        owner = changed if not group else changed.get(group, {})
        if field not in owner:
            raise UserError(f"--config.study.arms sets {name}, which is no field; see default.py.")
        try:
            owner[field] = value
        except TypeError as error:
            raise UserError(f"--config.study.arms sets {name} to {value!r}: {error}.") from error
    return changed


def _configurations(
    config: ConfigDict, workdir: str, arm: Arm, seed: int | None = None
) -> tuple[ConfigDict, ConfigDict]:
    """The configurations of an arm's training and sampling, each with a folder of records."""
    trained = _with(config, {**arm.train, "seed": config.seed if seed is None else seed})
    both = []
    for part in (trained, _with(trained, arm.sample)):
        kind = json.dumps(precompute.settings(part, "eval"), sort_keys=True)
        name = f"{part.attention.source} {zlib.crc32(kind.encode()):08x}"
        both.append(_with(part, {"data.records": str(Path(workdir) / "records" / name)}))
    return both[0], both[1]


def _key(arm: Arm) -> str:
    """What names a training: its fields without the number of steps."""
    fields = {k: v for k, v in sorted(arm.train.items()) if k != "train.steps"}
    return " ".join(f"{k}={v}" for k, v in fields.items()).replace("/", "_") or "as configured"


def _relevant(config: dict, without: Iterable[str] = ()) -> dict:
    """What decides over weights and pictures, as JSON keeps it."""
    fields = validation.with_later_fields(json.loads(json.dumps(config)))
    for name in (*_IRRELEVANT, *without):
        group, _, field = name.rpartition(".")
        (fields[group] if group else fields).pop(field, None)
    return fields


def _run_arm(config: ConfigDict, workdir: str, arm: Arm, seed: int) -> list[dict]:
    """The figures of an arm trained from a seed, for each sampling."""
    trained, sampled = _configurations(config, workdir, arm, seed)
    for part in (trained, sampled):
        if part.study.diffused and part.mask.enabled:
            part.mask.lower_bound = lower_bound(part, part.study.diffused)
    settings = [_relevant(trained.to_dict()), _relevant(sampled.to_dict())]
    folder = Path(workdir) / "results"
    name = arm.label.replace("/", "_")
    paths = [
        folder / f"{name} seed {seed} sampled {noise}.json"
        for noise in range(config.study.sample_seeds)
    ]
    found = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    if any(r is None or [_relevant(s) for s in r["settings"]] != settings for r in found):
        evaluation = evaluate.Evaluation(sampled, workdir)
        params = _trained_weights(trained, workdir, arm, seed)
        evaluation.add_bicubic()
        for noise in range(config.study.sample_seeds):
            evaluation.add(arm.label, params, sampled.mask.enabled, seed * 1000 + noise)
        bicubic, *rows = ({**row.values} for row in evaluation.rows)
        bound = sampled.mask.lower_bound if sampled.mask.enabled else None
        found = [
            {
                "settings": settings,
                "names": evaluation.names,
                "lower_bound": bound,
                "values": values,
                study_report.BICUBIC: bicubic,
            }
            for values in rows
        ]
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for path, result in zip(paths, found, strict=True):
                write_whole(path, json.dumps(result).encode())
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("results written")
    return found


def _trained_weights(config: ConfigDict, workdir: str, arm: Arm, seed: int):
    """The weights of an arm's training, which is begun, gone on with, or already there.

    Raises UserError where the training there is another one, or has gone past the arm's steps.
    """
    folder = Path(workdir) / "trainings" / f"{_key(arm)} seed {seed}"
    train.fit(config, str(folder))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        step, saved = checkpoints.latest(), checkpoints.config()
    without = ("train.steps", "eval", "records")
    same = _relevant(saved, without) == _relevant(config.to_dict(), without)
    if step != config.train.steps or not same:
        raise UserError(
            f"{folder} is at step {step} of a training with other settings than {arm.label!r} has, "
            f"or past its {config.train.steps} steps; take another --workdir, or delete that one."
        )
    return evaluate.load_weights(config, str(folder))[0]


def lower_bound(config: ConfigDict, fraction: float) -> float:
    """The l for which the evaluated examples have the mean diffused fraction asked for.

    It may be negative: where A + l < 0 nothing is diffused, and the up-sampled LR picture stays.
    """
    records = Records(build.record_folder(config, "", "eval"))
    indices = summary.spread(config.eval.pictures, len(records))
    attention = summary.maps(config, records, indices).ravel() / 255
    low, high = -1.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if np.clip(attention + middle, 0, 1).mean() < fraction:
            low = middle
        else:
            high = middle
    return round(high, 4)
