"""study: variants of one configuration, on the same held-out pictures."""

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from yoda_jax.compatibility import completed
from yoda_jax.configuration import build, fields, inference, restore
from yoda_jax.data.batches import maps, spread
from yoda_jax.errors import UserError
from yoda_jax.evaluation import study_report
from yoda_jax.jobs import precompute, train
from yoda_jax.processes import decided, is_first, together
from yoda_jax.runs import Run, write_whole
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import Params

# What changes neither weights nor pictures.
_IRRELEVANT = (
    "mode workdir study sweep data.records data.threads data.prefetch data.tfds_dir "
    "data.max_megapixels "
    "attention.weights attention.batch_size train.log_every train.checkpoint_every "
    "train.keep_checkpoints train.join_seconds train.eval_every train.eval_pictures train.best "
    "train.offset_warning train.profile_at eval.sheet_pictures eval.name eval.sets eval.beside"
).split()


class Arm(NamedTuple):
    """A variant: what its training and its sampling are told, each with a folder of records.

    `training` names the training, by the fields set in it but for the number of steps.
    """

    label: str
    training: str
    trained: ConfigDict
    sampled: ConfigDict


def run(config: ConfigDict, workdir: str) -> None:
    """Trains what the arms share once, samples each arm, and writes study.md and study.png.

    Arms with the same training fields (but for train.steps) share one training, which goes on from
    the fewest steps to the most. Everything done is kept: a stopped study goes on where it was.
    """
    where = Run(workdir)
    arms = arms_of(config, where)
    _check(config, arms)
    for trained in {arm.trained.data.records: arm.trained for arm in arms}.values():
        precompute.run(trained, workdir)
    for sampled in {arm.sampled.data.records: arm.sampled for arm in arms}.values():
        precompute.run(sampled, workdir, splits=("eval",))
    results: dict[str, list[list[dict]]] = {arm.label: [] for arm in arms}
    for arm in sorted(arms, key=lambda arm: (arm.training, arm.trained.train.steps)):
        for seed in range(config.seed, config.seed + config.study.train_seeds):
            results[arm.label].append(_run_arm(arm, where, seed))
    if is_first():
        table = study_report.table(results, config.study.reference)
        table = f"{_protocol(config, results)}\n\n{table}"
        write_whole(where.folder / "study.md", f"{table}\n".encode())
        print(f"\n{table}\n\ntable   {where.folder / 'study.md'}")
        if config.study.curves:
            png = io.BytesIO()
            study_report.curves(results).savefig(png, format="png", dpi=110)
            write_whole(where.folder / "study.png", png.getvalue())
            print(f"curves  {where.folder / 'study.png'}")
        print(f"figures {where.folder / 'results'}")


def arms_of(config: ConfigDict, where: Run) -> list[Arm]:
    """The arms, as study.arms describes them: (label, fields of training, fields of sampling)."""
    plain, arms = _with(config, {"study.arms": ()}), []
    for label, train_fields, sample_fields in config.study.arms:
        named = [f"{k}={v}" for k, v in sorted(train_fields.items()) if k != "train.steps"]
        training = " ".join(named).replace("/", "_") or "as configured"
        trained = _with(plain, train_fields)
        both = [trained, _with(trained, sample_fields)]
        for variant in both:
            kind = json.dumps(precompute.settings(variant, "eval"), sort_keys=True)
            name = f"{variant.attention.source} {zlib.crc32(kind.encode()):08x}"
            variant.data.records = str(where.folder / "records" / name)
        arms.append(Arm(label, training, *both))
    return arms


def _with(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with fields ("data.scale": 4) set; raises UserError where there is no such field."""
    changed = config.copy_and_resolve_references()
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        owner = changed if not group else changed.get(group, {})
        if field not in owner:
            raise UserError(f"--config.study.arms sets {name}, which is no field; see default.py.")
        try:
            owner[field] = value
        except TypeError as error:
            raise UserError(f"--config.study.arms sets {name} to {value!r}: {error}.") from error
    return changed


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
        for variant in (arm.trained, arm.sampled):
            fields.validate(variant)
            fields.check_batches(variant)
        steps = arm.trained.train
        point = (study_report.curve(arm.label), steps.batch_size, steps.steps)
        other = points.setdefault(point, arm.label)
        if config.study.curves and other != arm.label:
            raise UserError(
                f"--config.study.curves needs one arm for each curve (a label up to its first "
                f"comma), batch size and number of steps, found {other!r} and {arm.label!r}; give "
                "them other labels."
            )


def _relevant(config: Mapping[str, Any], without: Iterable[str] = ()) -> dict:
    """What decides over weights and pictures, as JSON keeps it."""
    kept = completed(json.loads(json.dumps(config)))
    for name in (*_IRRELEVANT, *without):
        group, _, field = name.rpartition(".")
        (kept[group] if group else kept).pop(field, None)
    return kept


def _run_arm(arm: Arm, where: Run, seed: int) -> list[dict]:
    """The figures of an arm trained from a seed, for each sampling."""
    trained, sampled = (_with(variant, {"seed": seed}) for variant in (arm.trained, arm.sampled))
    for variant in (trained, sampled):
        if variant.study.diffused and variant.mask.enabled:
            variant.mask.lower_bound = lower_bound(variant, variant.study.diffused)
    settings = [_relevant(trained.to_dict()), _relevant(sampled.to_dict())]
    name, samplings = arm.label.replace("/", "_"), range(sampled.study.sample_seeds)
    results = where.folder / "results"
    paths = [results / f"{name} seed {seed} sampled {noise}.json" for noise in samplings]

    def read() -> list[dict | None]:
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    found = decided(read)
    if all(r and [_relevant(s) for s in r["settings"]] == settings for r in found):
        return found
    compared, method = build.comparison(sampled, where), inference.method(sampled)
    params = _trained_weights(trained, where, arm, seed)
    bicubic = compared.add_bicubic(method).values
    found = [
        {
            "settings": settings,
            "names": compared.held_out.names,
            "lower_bound": sampled.mask.lower_bound if sampled.mask.enabled else None,
            "values": compared.add(arm.label, method, params, seed * 1000 + noise).values,
            study_report.BICUBIC: bicubic,
        }
        for noise in samplings
    ]

    def write() -> None:
        if is_first():
            for path, result in zip(paths, found, strict=True):
                write_whole(path, json.dumps(result).encode())

    together(write)
    return found


def _trained_weights(config: ConfigDict, where: Run, arm: Arm, seed: int) -> Params:
    """The weights of an arm's training, which is begun, gone on with, or already there.

    Raises UserError where the training there is another one, or has gone past the arm's steps.
    """
    training = where.within("trainings", f"{arm.training} seed {seed}")
    train.fit(config, str(training))
    with Checkpoints(training.checkpoints) as checkpoints:
        step, saved = checkpoints.latest(), checkpoints.config()
    without = ("train.steps", "eval", "records")
    same = _relevant(saved, without) == _relevant(config.to_dict(), without)
    if step != config.train.steps or not same:
        raise UserError(
            f"{training} is at step {step} of a training with other settings than {arm.label!r} "
            f"has, or past its {config.train.steps} steps; take another --workdir, or delete that "
            "one."
        )
    return restore.weights(config, training).params


def lower_bound(config: ConfigDict, fraction: float) -> float:
    """The l for which the evaluated examples have the mean diffused fraction asked for.

    It may be negative: where A + l < 0 nothing is diffused, and the up-sampled LR picture stays.
    """
    records = build.records(config, Run("."), "eval")
    indices = spread(config.eval.pictures, len(records))
    attention = maps(records, indices, inference.reading(config)).ravel() / 255
    low, high = -1.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        below = np.clip(attention + middle, 0, 1).mean() < fraction
        low, high = (middle, high) if below else (low, middle)
    return round(high, 4)


def _protocol(config: ConfigDict, results: study_report.Results) -> str:
    names, study = next(iter(results.values()))[0][0]["names"], config.study
    size, tuned, differences = config.data.hr_size, "", ""
    if study.diffused:
        tuned = (
            f"lower bounds tuned to a diffused fraction of {study.diffused:.3f} on the evaluated "
            "LR pictures; "
        )
    if study.reference:
        trainings = " and trainings" if study.train_seeds > 1 else ""
        differences = (
            f"; differences paired by picture, with 95 % intervals over pictures{trainings}"
        )
    return (
        f"{len(names)} held-out examples of {len(set(names))} pictures, {config.data.scale}x to "
        f"{size}x{size}; {study.train_seeds} trainings of {config.train.steps} steps of "
        f"{config.train.batch_size}, each sampled {study.sample_seeds} times in "
        f"{config.diffusion.sampling_steps} steps, where an arm says nothing else; {tuned}means "
        f"over seeds and pictures{differences}"
    )
