"""study: variants of one configuration on the same held-out pictures, with paired intervals."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from scipy import stats

from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.evaluation.report import write_whole
from yoda_jax.jobs import build, evaluate, precompute, summary, train

BICUBIC = "bicubic"
METRICS = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "colour_shift": "colour shift"}
_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "colour_shift": 4}


class Arm(NamedTuple):
    """A variant: fields ("mask.enabled": value) set in training, and those set in sampling."""

    label: str
    train: Mapping[str, Any]
    sample: Mapping[str, Any]


def run(config: ConfigDict, workdir: str) -> None:
    """Trains what the arms share once, samples each arm, and writes a table of all of them.

    Arms with the same training fields (but for train.steps) share one training, which goes on from
    the fewest steps to the most. Everything done is kept: a stopped study goes on where it was.
    """
    arms = [Arm(*arm) for arm in config.study.arms]
    labels = [arm.label for arm in arms]
    if not arms or len(set(labels)) < len(labels):
        raise UserError(f"--config.study.arms must be arms of different labels, found {labels}.")
    if config.study.reference not in ("", *labels):
        raise UserError(
            f"--config.study.reference must be one of {', '.join(labels)}, found "
            f"{config.study.reference!r}."
        )
    plain = _with(config, {"study.arms": ()})
    folders = set()
    for arm in arms:
        for fields in (arm.train, {**arm.train, **arm.sample}):
            part = _at_records(_with(plain, fields), Path(workdir))
            if part.data.records not in folders:
                precompute.run(part, workdir)
            folders.add(part.data.records)
    results: dict[str, dict] = {}
    order = sorted(arms, key=lambda arm: (_key(arm), arm.train.get("train.steps", 0)))
    for arm in order:
        for seed in range(config.seed, config.seed + config.study.train_seeds):
            for name, result in _run_arm(plain, Path(workdir), arm, seed).items():
                results.setdefault(name, []).append(result)
    _report(config, Path(workdir), [BICUBIC, *labels], results)


def _key(arm: Arm) -> str:
    """What names a training: its fields without the number of steps."""
    fields = {k: v for k, v in sorted(arm.train.items()) if k != "train.steps"}
    return " ".join(f"{k}={v}" for k, v in fields.items()).replace("/", "_") or "as configured"


def _with(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(dict(fields))
    return changed


def _run_arm(config: ConfigDict, workdir: Path, arm: Arm, seed: int) -> dict[str, dict]:
    """The figures of an arm trained from a seed, and bicubic's: {label: values a picture}."""
    trained = _at_records(_with(config, {**arm.train, "seed": seed}), workdir)
    sampled = _at_records(_with(trained, arm.sample), workdir)
    if sampled.study.diffused and sampled.mask.enabled:
        sampled.mask.lower_bound = lower_bound(sampled, sampled.study.diffused)
        if trained.mask.enabled:
            trained.mask.lower_bound = sampled.mask.lower_bound
    settings = json.loads(json.dumps([trained.to_dict(), sampled.to_dict()]))
    path = workdir / "results" / f"{arm.label} seed {seed}.json"
    if path.exists():
        saved = json.loads(path.read_text())
        if saved["settings"] == settings:
            return saved["values"]
    folder = workdir / "trainings" / f"{_key(arm)} seed {seed}"
    train.fit(trained, str(folder))
    evaluation = evaluate.Evaluation(sampled, str(workdir))
    params, _, step = evaluate.load_weights(trained, str(folder))
    if step != trained.train.steps:
        raise UserError(
            f"{folder} is at step {step}, past the {trained.train.steps} of {arm.label!r}; delete "
            "that folder, or take the arm out."
        )
    evaluation.add_bicubic()
    for noise in range(config.study.sample_seeds):
        evaluation.add(str(noise), params, sampled.mask.enabled, seed * 1000 + noise)
    bicubic, *rows = evaluation.rows
    values = {
        BICUBIC: {**bicubic.values, "lower_bound": 0.0},
        arm.label: {
            **{m: np.mean([r.values[m] for r in rows], axis=0).tolist() for m in bicubic.values},
            "lower_bound": sampled.mask.lower_bound if sampled.mask.enabled else math.nan,
        },
    }
    for result in values.values():
        result["names"] = evaluation.names
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"settings": settings, "values": values}).encode())
    return values


def _at_records(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The configuration with a folder of records that only maps of the same kind share."""
    attention = config.attention
    kind = f"{attention.source} {attention.input_size} {attention.cell}"
    return _with(config, {"data.records": str(workdir / "records" / kind)})


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


def by_picture(values: np.ndarray, names: list[str]) -> np.ndarray:
    """The mean of each picture's examples: examples of one picture are not independent."""
    _, picture = np.unique(names, return_inverse=True)
    return np.bincount(picture, values) / np.bincount(picture)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """(mean, half the width of its 95 % interval by Student's t) of independent differences."""
    n = len(differences)
    error = differences.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(differences.mean()), float(stats.t.ppf(0.975, n - 1) * error)


def _report(
    config: ConfigDict, workdir: Path, labels: list[str], results: Mapping[str, list[dict]]
) -> None:
    """Writes and prints the table: means of pictures, and paired differences to the reference."""
    names = results[BICUBIC][0]["names"]
    figures = {
        label: {
            m: by_picture(np.mean([r[m] for r in results[label]], axis=0), names)
            for m in (*METRICS, "diffused")
        }
        for label in labels
    }
    reference = config.study.reference
    head = ["", "diffused", "l", *METRICS.values()]
    if reference:
        head += [f"{name} - {reference}" for name in METRICS.values()]
    lines = [head, ["---"] * len(head)]
    for label in labels:
        bound = np.mean([r["lower_bound"] for r in results[label]])
        cells = [label, f"{figures[label]['diffused'].mean():.3f}",
                 "-" if math.isnan(bound) or label == BICUBIC else f"{bound:.3f}"]  # fmt: skip
        cells += [f"{figures[label][m].mean():.{_DIGITS[m]}f}" for m in METRICS]
        if reference:
            for m in METRICS:
                mean, half = interval(figures[label][m] - figures[reference][m])
                same = label == reference
                cells.append("" if same else f"{mean:+.{_DIGITS[m]}f} ± {half:.{_DIGITS[m]}f}")
        lines.append(cells)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    protocol = (
        f"{len(names)} held-out examples of {len(set(names))} pictures; {config.study.train_seeds} "
        f"trainings of {config.train.steps} steps of {config.train.batch_size}, each sampled "
        f"{config.study.sample_seeds} times in {config.diffusion.sampling_steps} steps; means over "
        "seeds and pictures; differences paired by picture, with 95 % intervals over pictures"
    )
    write_whole(workdir / "study.md", f"{protocol}\n\n{table}\n".encode())
    print(f"\n{protocol}\n\n{table}\n\ntable {workdir / 'study.md'}")
    logging.info("figures of every picture: %s", workdir / "results")
