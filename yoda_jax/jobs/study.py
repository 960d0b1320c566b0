"""study: variants of one configuration on the same held-out pictures, with paired intervals."""

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from scipy import stats

from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.evaluation.report import write_whole
from yoda_jax.jobs import build, evaluate, parts, precompute, summary, train, validation
from yoda_jax.training.checkpoints import Checkpoints

BICUBIC = "bicubic"
METRICS = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "colour_shift": "colour shift"}
_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "colour_shift": 4}
# What changes neither weights nor pictures.
_IRRELEVANT = (
    "mode", "workdir", "study", "data.records", "data.threads", "data.prefetch", "data.tfds_dir",
    "attention.weights", "attention.batch_size", "train.log_every", "train.checkpoint_every",
    "train.keep_checkpoints", "train.sample_every", "train.sample_pictures",
    "train.offset_warning", "train.profile_at", "eval.sheet_pictures",
)  # fmt: skip


class Arm(NamedTuple):
    """A variant: fields ("mask.enabled": value) set in training, and those set in sampling too."""

    label: str
    train: Mapping[str, Any]
    sample: Mapping[str, Any]


def run(config: ConfigDict, workdir: str) -> None:
    """Trains what the arms share once, samples each arm, and writes a table of all of them.

    Arms with the same training fields (but for train.steps) share one training, which goes on from
    the fewest steps to the most. Everything done is kept: a stopped study goes on where it was.
    """
    arms = [Arm(*arm) for arm in config.study.arms]
    plain = parts.complete(_with(config, {"study.arms": ()}))
    _check(plain, arms)
    for arm in arms:
        trained, sampled = _configurations(plain, workdir, arm)
        precompute.run(trained, workdir)
        precompute.run(sampled, workdir, splits=("eval",))
    results: dict[str, list[list[dict]]] = {}  # label -> training seed -> sampling seed

    def order(arm: Arm) -> tuple[str, int]:
        return _key(arm), _configurations(plain, "", arm)[0].train.steps

    for arm in sorted(arms, key=order):
        for seed in range(config.seed, config.seed + config.study.train_seeds):
            results.setdefault(arm.label, []).append(_run_arm(plain, workdir, arm, seed))
    if jax.process_index() == 0:
        table = _table(config, arms, results)
        write_whole(Path(workdir) / "study.md", f"{table}\n".encode())
        print(f"\n{table}\n\ntable   {Path(workdir) / 'study.md'}")
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
    for arm in arms:
        for part in _configurations(config, "", arm):
            validation.validate(part)
            train.check_batches(part)


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
    fields = json.loads(json.dumps(config))
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
    paths = [folder / f"{name} seed {seed} sampled {noise}.json"
             for noise in range(config.study.sample_seeds)]  # fmt: skip
    found = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    if any(result is None or result["settings"] != settings for result in found):
        evaluation = evaluate.Evaluation(sampled, workdir)
        params = _trained_weights(trained, workdir, arm, seed)
        evaluation.add_bicubic()
        for noise in range(config.study.sample_seeds):
            evaluation.add(arm.label, params, sampled.mask.enabled, seed * 1000 + noise)
        bicubic, *rows = ({**row.values} for row in evaluation.rows)
        bound = sampled.mask.lower_bound if sampled.mask.enabled else None
        found = [
            {"settings": settings, "names": evaluation.names, "lower_bound": bound,
             "values": values, BICUBIC: bicubic}
            for values in rows
        ]  # fmt: skip
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


def by_picture(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Means (..., pictures) of (..., examples): examples of a picture are not independent.

    Examples that are not finite in any row (an infinite PSNR) are left out of all of them.
    """
    finite = np.isfinite(values.reshape(-1, values.shape[-1])).all(axis=0)
    _, picture = np.unique(np.asarray(names)[finite], return_inverse=True)
    return np.stack(
        [values[..., finite][..., picture == i].mean(-1) for i in range(picture.max() + 1)], -1
    )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """(mean, half its 95 % interval) of differences (trainings, pictures), both taken as random.

    The variance of the mean is the sum of those of the means of pictures and of trainings; degrees
    of freedom by Welch and Satterthwaite. With one training it holds for that one alone.
    """
    means = [differences.mean(axis=axis) for axis in range(2)]
    terms = [(m.var(ddof=1) / len(m), len(m) - 1) for m in means if len(m) > 1]
    variance = sum(v for v, _ in terms)
    if not variance:
        return float(differences.mean()), 0.0 if terms else math.nan
    freedom = variance**2 / sum(v**2 / n for v, n in terms)
    return float(differences.mean()), float(stats.t.ppf(0.975, freedom) * math.sqrt(variance))


def _table(
    config: ConfigDict, arms: Sequence[Arm], results: Mapping[str, list[list[dict]]]
) -> str:
    """The protocol and a Markdown table: means, and paired differences to the reference."""
    first = results[arms[0].label][0][0]
    names, labels = first["names"], [BICUBIC, *(arm.label for arm in arms)]
    if any(r["names"] != names for rows in results.values() for row in rows for r in row):
        raise UserError("--config.study.arms must keep the evaluated pictures; they differ.")

    def values(label: str, metric: str) -> list[list[float]]:
        """One list of examples for each training, means over its samplings."""
        rows = results[arms[0].label] if label == BICUBIC else results[label]
        part = BICUBIC if label == BICUBIC else "values"
        return [np.mean([r[part][metric] for r in row], axis=0) for row in rows]

    figures = {
        m: by_picture(np.array([values(label, m) for label in labels]), names)
        for m in (*METRICS, "diffused")
    }
    reference = config.study.reference
    head = ["", "diffused", "l", *METRICS.values()]
    head += [f"{name} - {reference}" for name in METRICS.values()] if reference else []
    lines = [head, ["---"] * len(head)]
    for i, label in enumerate(labels):
        bounds = [row[0]["lower_bound"] for row in results.get(label, ())]
        bound = "-" if None in bounds or not bounds else f"{np.mean(bounds):.3f}"
        cells = [label, f"{figures['diffused'][i].mean():.3f}", bound]
        cells += [f"{figures[m][i].mean():.{_DIGITS[m]}f}" for m in METRICS]
        for m in METRICS if reference else ():
            mean, half = interval(figures[m][i] - figures[m][labels.index(reference)])
            text = f"{mean:+.{_DIGITS[m]}f} ± {half:.{_DIGITS[m]}f}"
            cells.append("" if label == reference else text)
        lines.append(cells)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{_protocol(config, len(names), len(set(names)))}\n\n{table}"


def _protocol(config: ConfigDict, examples: int, pictures: int) -> str:
    tuned = (
        f"lower bounds tuned to a diffused fraction of {config.study.diffused:.3f} on the "
        "evaluated LR pictures; " if config.study.diffused else ""
    )  # fmt: skip
    return (
        f"{examples} held-out examples of {pictures} pictures, {config.data.scale}x to "
        f"{config.data.hr_size}x{config.data.hr_size}; {config.study.train_seeds} trainings of "
        f"{config.train.steps} steps of {config.train.batch_size}, each sampled "
        f"{config.study.sample_seeds} times in {config.diffusion.sampling_steps} steps, where an "
        f"arm says nothing else; {tuned}means over seeds and pictures; differences paired by "
        "picture, with 95 % intervals over pictures and trainings"
    )
