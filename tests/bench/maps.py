"""Which map is best at equal diffusion? python -m tests.bench.maps --pictures=FOLDER.

Whole photographs, reduced by the model's scale, are up-scaled again under one map after another,
each raised for each photograph to the power that makes the mean of min(A + l, 1) one of
--fractions, and under constant maps of --constants steps. Steps are whole, so less is diffused than
that mean: each map is held against the constant map that diffuses as much and against the one that
takes as many evaluations of the network, figures between two constant maps being interpolated for
each photograph. All are tried with the weights of --model or, with --trained, each with weights of
its own, FOLDER/MAP.safetensors. Figures are means over --seeds of the noise; inside is the quarter
of the photograph that DINO's map is highest in, for every map. Prints Markdown tables: means, and
differences by photograph. What is done lies in --output and is not done twice.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from etils import epath
from PIL import Image
from skimage.metrics import structural_similarity

from yoda_jax import frames
from yoda_jax.configuration import inference
from yoda_jax.data.degrade import downsample
from yoda_jax.evaluation.fidelity import GAUSSIAN
from yoda_jax.evaluation.report import markdown
from yoda_jax.evaluation.whole import HIGH, Results, WholeMeasure, made_by, pixels_print, sampled
from yoda_jax.evaluation.whole_report import Measured
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler

DINO, PRODUCT, CONSTANT = inference.PACKAGED_BACKBONE, "edges x DINO", "constant"
SOURCES = (DINO, "edges", inference.ENCODER, "random")
MAPS = (*SOURCES, PRODUCT)
DIFFUSION, COST = ": constant, as much", ": constant, as costly"
CONSTANTS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # steps
SHOWN = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 4),
    "psnr_inside": ("PSNR, inside", 2),
    "ssim_inside": ("SSIM, inside", 3),
    "lpips_inside": ("LPIPS, inside", 4),
    "psnr_outside": ("PSNR, outside", 2),
    "ssim_outside": ("SSIM, outside", 3),
    "lpips_outside": ("LPIPS, outside", 4),
    "diffused": ("diffused", 3),
    "evaluations": ("evaluations a tile", 1),
}


def shaped(attention: np.ndarray, bound: float, fraction: float) -> np.ndarray:
    """A to the power by which min(A + bound, 1) has the mean asked for, in 8 bits."""
    attention = attention / max(attention.max(), 1e-9)
    low, high = -6.0, 6.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = np.minimum(attention ** np.exp(middle) + bound, 1).mean()
        low, high = (middle, high) if mean > fraction else (low, middle)
    return np.rint(255 * attention ** np.exp(high)).astype(np.uint8)


def apart(made: np.ndarray, hr: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM of RGB, in and out of a part (H W) of a picture."""
    squared = np.square(made.astype(np.float64) - hr).mean(axis=-1)
    whole = {"data_range": 255, "channel_axis": -1, "full": True}
    similar = structural_similarity(made, hr, **whole, **GAUSSIAN)[1].mean(axis=-1)
    figures = {}
    for name, part in (("inside", inside), ("outside", ~inside)):
        figures[f"psnr_{name}"] = float(10 * np.log10(255**2 / squared[part].mean()))
        figures[f"ssim_{name}"] = float(similar[part].mean())
    return figures


def flat(steps: int, chain: int, bound: float, size: tuple[int, ...]) -> np.ndarray:
    """The map that diffuses every pixel for so many steps of a chain, in 8 bits."""
    return np.full(size, np.ceil(255 * np.clip(steps / chain - bound, 0, 1)), np.uint8)


def between(constants: dict[int, dict[str, float]], steps: float) -> dict[str, float]:
    """The figures of the constant map of any number of steps; NaN above those that were made."""
    at = sorted(constants)
    names = constants[at[0]]
    columns = {k: np.interp(steps, at, [constants[n][k] for n in at], right=np.nan) for k in names}
    return {k: float(v) for k, v in columns.items()}


class Photograph(NamedTuple):
    """A picture, what is seen of it, and the raw maps of that; inside is the subject."""

    name: str
    hr: np.ndarray
    lr: np.ndarray
    maps: dict[str, np.ndarray]

    @property
    def inside(self) -> np.ndarray:
        return self.maps[DINO][..., 0] > np.quantile(self.maps[DINO], HIGH)


class Sources:
    """Photographs with their maps."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._scale, self._rule = upscaler.scale, upscaler.config.data.resampling
        self._by_source = {}
        for source in SOURCES:
            config = upscaler.config.copy_and_resolve_references()
            as_it_is = {"weights": inference.PACKAGED, "power": 1.0, "fraction": 0.0}
            config.attention.update(source=source, **as_it_is)
            self._by_source[source] = Upscaler(config, upscaler.params)

    def __call__(self, path: Path) -> Photograph:
        hr = np.array(Image.open(path).convert("RGB"))
        height, width = (side // self._scale * self._scale for side in hr.shape[:2])
        hr = hr[:height, :width]
        lr = downsample(hr, self._scale, self._rule)
        maps = {source: one.attention(lr) / 255.0 for source, one in self._by_source.items()}
        return Photograph(path.stem, hr, lr, maps | {PRODUCT: maps["edges"] * maps[DINO]})


class Sampler:
    """Samples photographs with one set of weights and measures what it makes."""

    def __init__(self, upscaler: Upscaler, options: argparse.Namespace, measure: WholeMeasure):
        sampling = Sampling(steps=options.steps, mask=True, lower_bound=options.bound)
        self._upscaler, self._tiled = upscaler, upscaler.tiled(sampling)
        self.chain = self._tiled.method.sampling_steps
        self._measure, self._results = measure, Results(epath.Path(options.output))
        config, how = upscaler.config.to_dict(), {"chain": self.chain, "bound": options.bound}
        seeds = range(options.seeds)
        self._asked = {seed: made_by(config, upscaler.params, seed) | how for seed in seeds}

    def __call__(self, row: str, photo: Photograph, attention: np.ndarray) -> dict[str, float]:
        """Means of figures over the seeds."""
        seen = {"picture": pixels_print(photo.hr), "map": pixels_print(attention)}
        found = []
        for seed, asked in self._asked.items():
            where = f"{row} {seed}", photo.name, asked | seen
            if (one := self._results.get(*where)) is None:
                one = self._made(photo, attention, seed)
                self._results.put(*where, one)
            found.append(one)
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def _made(self, photo: Photograph, attention: np.ndarray, seed: int) -> dict[str, float]:
        sample = partial(self._upscaler.sampled, self._tiled, photo.lr, attention, seed)
        made = sampled(self._tiled, attention, sample)
        figures = self._measure(made, photo.hr, photo.lr, photo.maps[DINO])
        steps = frames.steps(self._tiled.method, attention[None])
        figures["diffused"] = float(steps.mean()) / self.chain
        return figures | apart(made.picture, photo.hr, photo.inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="photos_x4", help="as Upscaler.load takes it")
    parser.add_argument("--trained", type=Path, help="a folder of MAP.safetensors")
    parser.add_argument("--pictures", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--fractions", type=float, nargs="+", default=(0.06, 0.125, 0.25))
    parser.add_argument("--constants", type=int, nargs="+", default=CONSTANTS, help="steps")
    parser.add_argument("--bound", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--maps", nargs="+", default=MAPS, choices=MAPS)
    parser.add_argument("--output", default="runs/bench_maps")
    options = parser.parse_args()
    use_all_cpu_cores((8,))
    names = (*options.maps, CONSTANT)
    if options.trained:
        by_map = {name: Upscaler.load(options.trained / f"{name}.safetensors") for name in names}
    else:
        by_map = dict.fromkeys(names, Upscaler.load(options.model))
    upscaler = by_map[CONSTANT]
    measure = WholeMeasure(upscaler.scale, upscaler.config.data.resampling)
    samplers = {name: Sampler(one, options, measure) for name, one in by_map.items()}
    see, chain, rows = Sources(upscaler), samplers[CONSTANT].chain, {}  # all have one encoder
    for path in sorted(Path(options.pictures).iterdir())[: options.count]:
        photo, constants = see(path), {}
        for steps in options.constants:
            label = f"{CONSTANT}, {steps} steps"
            attention = flat(steps, chain, options.bound, photo.maps[DINO].shape)
            constants[steps] = samplers[CONSTANT](label, photo, attention)
            rows.setdefault(label, {})[photo.name] = constants[steps]
        for label, fraction, name in labels(options):
            attention = shaped(photo.maps[name], options.bound, fraction)
            found = samplers[name](label, photo, attention)
            rows.setdefault(label, {})[photo.name] = found
            for what, steps in (
                (DIFFUSION, chain * found["diffused"]),
                (COST, found["evaluations"]),
            ):
                rows.setdefault(label + what, {})[photo.name] = between(constants, steps)
    pairs = {}
    for label, fraction, name in labels(options):
        pairs[label] = [label + DIFFUSION, label + COST]
        if name != DINO and DINO in options.maps:
            pairs[label].append(f"{fraction:g} {DINO}")
    order = [row for row in rows if not row.endswith((DIFFUSION, COST))]
    for name, table in Measured(rows, order, pairs, SHOWN).tables().items():
        print(f"\n{name}\n\n{markdown(table)}")


def labels(options: argparse.Namespace) -> list[tuple[str, float, str]]:
    """(row, fraction, map) of all that is compared."""
    return [(f"{f:g} {name}", f, name) for f in options.fractions for name in options.maps]


if __name__ == "__main__":
    main()
