"""Which map is best at equal diffusion? python -m tests.bench.maps --pictures=FOLDER.

Whole photographs, reduced by the model's scale, are up-scaled again under one map after another,
each raised for each photograph to the power that makes its mean diffused share one of --fractions;
"constant" diffuses every pixel equally long, "constant at the cost of" another map for as many
evaluations of the network as that takes. All maps are tried with the weights of --model or,
with --trained, each with weights of its own, FOLDER/MAP.safetensors. Figures are means over --seeds
of the noise; inside is the quarter of the photograph that DINO's map is highest in, for every map.
Prints Markdown tables: means, and differences by photograph to DINO's map and to constant ones.
What is done lies in --output and is not done twice.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from zlib import crc32

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from etils import epath
from PIL import Image
from skimage.metrics import structural_similarity

from yoda_jax.configuration import inference
from yoda_jax.data.degrade import downsample
from yoda_jax.evaluation.fidelity import WINDOW
from yoda_jax.evaluation.report import markdown
from yoda_jax.evaluation.whole import HIGH, Results, WholeMeasure, pixels_print, sampled
from yoda_jax.evaluation.whole_report import Measured
from yoda_jax.tiled import Tiled
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler

DINO, PRODUCT, CONSTANT = inference.PACKAGED_BACKBONE, "edges x DINO", "constant"
SOURCES = (DINO, "edges", inference.ENCODER, "random")
MAPS = (*SOURCES, PRODUCT, CONSTANT)
COST = "constant at the cost of "
AT_COST = tuple(COST + name for name in (DINO, inference.ENCODER))
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
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    whole = {"data_range": 255, "channel_axis": -1, "win_size": WINDOW, "full": True}
    similar = structural_similarity(made, hr, **whole, **window)[1].mean(axis=-1)
    figures = {}
    for name, part in (("inside", inside), ("outside", ~inside)):
        figures[f"psnr_{name}"] = float(10 * np.log10(255**2 / squared[part].mean()))
        figures[f"ssim_{name}"] = float(similar[part].mean())
    return figures


def flat(share: float, bound: float, like: np.ndarray) -> np.ndarray:
    """The map that diffuses every pixel for a share of the steps, in 8 bits."""
    return np.full(like.shape, np.rint(255 * np.clip(share - bound, 0, 1)), np.uint8)


def cost(tiled: Tiled, attention: np.ndarray) -> float:
    """The evaluations of a tile that a map takes, as a share of those of all steps."""
    work = tiled.plan(attention[None])
    return work.evaluations / len(work.tiles) / work.chain


def checksum(upscaler: Upscaler) -> str:
    leaves = jax.tree.leaves(upscaler.params)
    return f"{crc32(b''.join(np.asarray(leaf).tobytes() for leaf in leaves)):08x}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="photos_x4", help="as Upscaler.load takes it")
    parser.add_argument("--trained", type=Path, help="a folder of MAP.safetensors")
    parser.add_argument("--pictures", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--fractions", type=float, nargs="+", default=(0.06, 0.125, 0.25))
    parser.add_argument("--bound", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--maps", nargs="+", default=MAPS, choices=(*MAPS, *AT_COST))
    parser.add_argument("--output", default="runs/bench_maps")
    options = parser.parse_args()
    use_all_cpu_cores((8,))
    if options.trained:
        of = {name: CONSTANT if name in AT_COST else name for name in options.maps}
        by_map = {m: Upscaler.load(options.trained / f"{of[m]}.safetensors") for m in of}
    else:
        by_map = dict.fromkeys(options.maps, Upscaler.load(options.model))
    upscaler = next(iter(by_map.values()))  # all have one encoder
    scale, rule = upscaler.scale, upscaler.config.data.resampling
    weights = {name: checksum(one) for name, one in by_map.items()}
    sampling = Sampling(steps=options.steps, mask=True, lower_bound=options.bound)
    by_source = {}
    for source in SOURCES:
        config = upscaler.config.copy_and_resolve_references()
        config.attention.update(source=source, weights=inference.PACKAGED, power=1.0, fraction=0.0)
        by_source[source] = Upscaler(config, upscaler.params)
    measure, results = WholeMeasure(scale, rule), Results(epath.Path(options.output))
    samplers = {name: one.tiled(sampling) for name, one in by_map.items()}
    rows = {}
    for path in sorted(Path(options.pictures).iterdir())[: options.count]:
        hr = np.array(Image.open(path).convert("RGB"))
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        lr = downsample(hr, scale, rule)
        raw = {source: one.attention(lr) / 255.0 for source, one in by_source.items()}
        raw[PRODUCT] = raw["edges"] * raw[DINO]
        inside = raw[DINO][..., 0] > np.quantile(raw[DINO], HIGH)
        for fraction in options.fractions:
            for name in options.maps:
                tiled, of = samplers[name], name.removeprefix(COST)
                if name == CONSTANT:
                    attention = flat(fraction, options.bound, raw[DINO])
                else:
                    attention = shaped(raw[of], options.bound, fraction)
                if name in AT_COST:
                    attention = flat(cost(tiled, attention), options.bound, raw[DINO])
                found = []
                for seed in range(options.seeds):
                    row = f"{fraction:g} {name} {seed}"
                    asked = {"picture": pixels_print(hr), "weights": weights[name]}
                    if (figures := results.get(row, path.stem, asked)) is None:
                        sample = partial(by_map[name].sampled, tiled, lr, attention, seed)
                        made = sampled(tiled, attention, sample)
                        figures = measure(made, hr, lr, raw[DINO])
                        figures |= apart(made.picture, hr, inside)
                        results.put(row, path.stem, asked, figures)
                    found.append(figures)
                means = {k: float(np.mean([one[k] for one in found])) for k in found[0]}
                rows.setdefault(f"{fraction:g} {name}", {})[path.stem] = means
    pairs = {}
    for row in rows:
        fraction, name = row.split(" ", 1)
        others = (f"{fraction} {other}" for other in (DINO, CONSTANT, COST + name) if other != name)
        pairs[row] = [other for other in others if other in rows]
    for name, table in Measured(rows, list(rows), pairs, SHOWN).tables().items():
        print(f"\n{name}\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
