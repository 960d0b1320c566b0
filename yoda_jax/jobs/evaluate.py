"""eval: a checkpoint on the held-out pictures -> table, figures a picture, sheet."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from yoda_jax.data.batches import stack, whole
from yoda_jax.data.records import Records
from yoda_jax.diffusion.mask import diffused_fraction
from yoda_jax.evaluation import fidelity, report
from yoda_jax.evaluation.perceptual import lpips
from yoda_jax.jobs import build, parts, precompute, summary, validation
from yoda_jax.pictures import to_uint8, to_unit, upsample
from yoda_jax.sampling import BatchSampler
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import Params
from yoda_jax.weights.lpips import load_lpips_alex

_SHEET_SIZE = 128


def run(config: ConfigDict, workdir: str) -> None:
    """Samples the held-out pictures from the newest checkpoint and reports beside bicubic."""
    config = parts.complete(config, workdir)
    params, trained_masked, step = load_weights(config, workdir)
    precompute.run(config, workdir, splits=("eval",))
    evaluation = Evaluation(config, workdir)
    label = f"{config.model.name} + YODA" if trained_masked else config.model.name
    if trained_masked != config.mask.enabled:
        label += " + mask" if config.mask.enabled else " without mask"
    evaluation.add_bicubic()
    evaluation.add(f"{label}, step {step}", params, masked=config.mask.enabled)
    evaluation.report(Path(workdir) / "eval")


def load_weights(config: ConfigDict, workdir: str) -> tuple[Params, bool, int]:
    """The newest checkpoint's averaged parameters on every device, (trained masked, step)."""
    method, where = build.method(config), sharding.replicated(sharding.make_mesh())
    shapes = jax.eval_shape(
        lambda: method.init(jax.random.key(0), config.data.hr_size // config.data.scale)
    )
    abstract = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes
    )
    with Checkpoints(Path(workdir) / "checkpoints") as checkpoints:
        saved, step = checkpoints.config(), checkpoints.latest()
        validation.check_trained_with(config, saved, workdir, training=False)
        params = checkpoints.restore_weights(abstract)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    logging.info("restored step %d from %s, %s parameters", step, workdir, f"{count:,}")
    return params, saved["mask"]["enabled"], step


class Evaluation:
    """Methods compared on the same held-out pictures with the same noise, under one protocol."""

    def __init__(self, config: ConfigDict, workdir: str) -> None:
        self.config, self.mesh = config, sharding.make_mesh()
        sharding.check_batch(self.mesh, "eval.batch_size", config.eval.batch_size)
        self.records = Records(build.record_folder(config, workdir, "eval"))
        self.indices = summary.spread(config.eval.pictures, len(self.records))
        self.method = build.method(config)
        self.samplers: dict[bool, BatchSampler] = {}
        self.rows: list[report.Row] = []
        self.shown: dict[str, list[np.ndarray]] = {}
        self.names: list[str] = [self.records[i]["name"] for i in self.indices]
        self._lpips = partial(jax.jit(lpips), load_lpips_alex())
        # The first process draws the sheet, of pictures that it sampled itself.
        share = config.eval.batch_size // jax.process_count()
        own = [i for i in range(len(self.indices)) if i % config.eval.batch_size < share]
        shown = min(config.eval.sheet_pictures, len(own))
        self.on_sheet = {own[int((i + 0.5) * len(own) / shown)] for i in range(shown)}

    def add_bicubic(self) -> None:
        """The row that every method has to be compared with."""

        def upscale(ids: np.ndarray, rows: Mapping[str, np.ndarray]) -> np.ndarray:
            lr_up = upsample(jnp.asarray(rows["lr"]), self.method.scale, self.method.resampling)
            return np.asarray(to_uint8(lr_up))

        self._measure("bicubic", upscale, diffused=lambda attention: np.zeros(len(attention)))

    def add(self, label: str, params: Params, masked: bool, seed: int | None = None) -> None:
        """Samples every picture, with the mask or plainly, from the same noise.

        seed: of the noise, in place of the configuration's.
        """
        if masked not in self.samplers:
            self.samplers[masked] = BatchSampler(self.method.with_mask(masked), self.mesh)
        sampler, started = self.samplers[masked], time.time()
        batches = -(-len(self.indices) // self.config.eval.batch_size)
        done, last_report = 0, started

        def upscale(ids: np.ndarray, rows: Mapping[str, np.ndarray]) -> np.ndarray:
            def progress(share: float) -> None:
                nonlocal last_report
                if time.time() - last_report > 10:
                    last_report = time.time()
                    overall = (done + share) / batches
                    left = (last_report - started) * (1 / overall - 1)
                    logging.info(
                        "%s: %.0f %% sampled, about %.0f s left", label, 100 * overall, left
                    )

            nonlocal done
            inputs = {"lr": rows["lr"], "attention": rows["attention"]}
            records = np.array([self.indices[i] for i in ids])
            pictures = sampler(
                params, records, inputs, self.config.seed if seed is None else seed, progress
            )
            done += 1
            return pictures

        lower_bound = self.config.mask.lower_bound if masked else 1.0

        def diffused(attention: np.ndarray) -> np.ndarray:
            if not self.method.network.diffuses:
                return np.zeros(len(attention))
            return np.asarray(diffused_fraction(jnp.asarray(attention / 255), lower_bound))

        self._measure(label, upscale, diffused)

    def report(self, folder: Path) -> None:
        """Writes and prints the table with its protocol."""
        c = self.config
        steps = (
            f"{c.diffusion.sampling_steps} DDPM steps, lower bound {c.mask.lower_bound}"
            if self.method.network.diffuses
            else "no diffusion"
        )
        protocol = (
            f"{len(self.indices)} held-out examples of {len(set(self.names))} pictures, "
            f"{c.data.scale}x to {c.data.hr_size}x{c.data.hr_size}, LR by bicubic reduction "
            f"({c.data.resampling}), {steps}; PSNR and SSIM in RGB (and Y) of 8 bits, border "
            f"{c.eval.border}; LPIPS AlexNet v0.1; colour shift: mean over channels of "
            "|mean(SR - HR)| on [-1, 1]; mean ± standard error over examples (identical pictures, "
            "of infinite PSNR, left out of it)"
        )
        if jax.process_index() == 0:
            names = [f"{i} {name}" for i, name in zip(self.indices, self.names, strict=True)]
            report.write(folder, self.rows, names, protocol, self._sheet())
            print(f"\n{protocol}\n\n{report.table(self.rows)}\n")
            print(f"sheet   {folder / 'sheet.png'}")
            print(f"report  {folder / 'report.html'}\nfigures {folder / 'metrics.json'}\n")

    def _portions(self) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """(this process's positions in the set, which of them count, rows) of every batch.

        The last batch is filled up with the last picture, so all processes take equal parts.
        """
        size, n = self.config.eval.batch_size, len(self.indices)
        share = size // jax.process_count()
        for start in range(0, n, size):
            mine = start + jax.process_index() * share + np.arange(share)
            ids = np.minimum(mine, n - 1)
            attention = self.config.attention
            rows = whole(
                self.records,
                [self.indices[i] for i in ids],
                attention.aggregate,
                attention.normalise_heads,
            )
            yield ids, mine < n, rows

    def _measure(self, label: str, upscale, diffused) -> None:
        parts: list[dict[str, list[float]]] = []
        positions: list[int] = []
        for ids, counts, rows in self._portions():
            pictures = upscale(ids, rows)
            values = self._metrics(pictures, rows)
            values["diffused"] = [float(v) for v in diffused(rows["attention"])]
            parts.append(
                {m: [x for x, c in zip(v, counts, strict=True) if c] for m, v in values.items()}
            )
            positions += [int(i) for i, c in zip(ids, counts, strict=True) if c]
            self._show(label, ids[counts], pictures, rows)
        values = {m: [x for part in parts for x in part[m]] for m in parts[0]}
        self.rows.append(report.Row(label, _gather(positions, values, len(self.indices))))

    def _metrics(
        self, pictures: np.ndarray, rows: Mapping[str, np.ndarray]
    ) -> dict[str, Sequence[float]]:
        border, rule = self.config.eval.border, self.config.data.resampling
        pairs = list(zip(pictures, rows["hr"], strict=True))
        shifts = np.array([fidelity.colour_shift(a, b) for a, b in pairs])
        both = to_unit(pictures), to_unit(rows["hr"])
        return {
            "psnr": [fidelity.psnr(a, b, border) for a, b in pairs],
            "ssim": [fidelity.ssim(a, b, border) for a, b in pairs],
            "lpips": [float(v) for v in self._lpips(*both)],
            "colour_shift": list(np.abs(shifts).mean(-1)),
            "lr_psnr": [
                fidelity.lr_psnr(a, b, rule) for a, b in zip(pictures, rows["lr"], strict=True)
            ],
            "psnr_y": [fidelity.psnr(a, b, border, luma=True) for a, b in pairs],
            "ssim_y": [fidelity.ssim(a, b, border, luma=True) for a, b in pairs],
            **{f"colour_shift_{c}": list(shifts[:, i]) for i, c in enumerate("rgb")},
        }

    def _show(
        self, label: str, ids: np.ndarray, pictures: np.ndarray, rows: Mapping[str, np.ndarray]
    ) -> None:
        """Keeps the pictures of the sheet; of several processes the first one's."""
        for i, position in enumerate(ids):
            if int(position) in self.on_sheet:
                if not self.rows:  # the first method: bicubic
                    self.shown.setdefault("inputs", []).append({k: v[i] for k, v in rows.items()})
                self.shown.setdefault(label, []).append(pictures[i])

    def _sheet(self):
        rows = stack(self.shown["inputs"])
        masks = summary.mask_columns(rows["attention"], self.config.mask.lower_bound)
        methods = {label: self.shown[label] for label in self.shown if label != "inputs"}
        first, *others = methods
        columns = {
            "LR": rows["lr"],
            first: methods[first],
            "attention": rows["attention"],
            **masks,
            **{label: methods[label] for label in others},
            "HR": rows["hr"],
        }
        return report.picture_sheet(columns, _SHEET_SIZE)


def _gather(
    positions: Sequence[int], values: Mapping[str, Sequence[float]], count: int
) -> dict[str, list[float]]:
    """The values of all processes, in the order of the set."""
    if jax.process_count() == 1:
        return {m: list(v) for m, v in values.items()}
    gathered = {}
    for metric, mine in values.items():
        filled = np.zeros(count)
        filled[list(positions)] = mine
        # Every position belongs to one process, the others hold 0 there.
        gathered[metric] = multihost_utils.process_allgather(filled).sum(0).tolist()
    return gathered
