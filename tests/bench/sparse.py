"""What leaving tiles out saves: python -m tests.bench.sparse --workdir=RUN --pictures=FOLDER.

Photographs are reduced by the run's scale and up-scaled again with the run's weights, its source of
attention and its mask: by all tiles at all steps and by those that are needed alone, in turns.
Prints a Markdown table: evaluations, batches and wall time as ratios, whether the results are
equal, and the seams: the mean step of brightness across a core's border over that between other
neighbours.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from PIL import Image

from yoda_jax.data.degrade import downsample
from yoda_jax.diffusion.tiles import Tiles
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler


def seams(picture: np.ndarray, tiles: Tiles, scale: int) -> float:
    """Mean |difference| of neighbours across cores' vertical borders, over that at other columns.

    Others of the same place in an LR pixel, since enlarged pictures have its period.
    """
    grey = picture.astype(float).mean(-1)
    steps = np.abs(np.diff(grey, axis=1))
    at = np.zeros(steps.shape[1], bool)
    borders = tiles.corners[:, 2] + tiles.cores[:, 3] - 1
    at[borders[borders < len(at)]] = True
    others = ~at & (np.arange(len(at)) % scale == scale - 1)
    return float(steps[:, at].mean() / steps[:, others].mean()) if at.any() else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--pictures", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=2, default=(1000, 1500), help="height, width")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    use_all_cpu_cores((options.batch,))
    upscaler = Upscaler.load(options.workdir)
    chosen = {"steps": options.steps, "tile": options.tile, "batch": options.batch}
    kinds = {
        kind: upscaler.tiled(Sampling(**chosen, sparse=kind == "sparse"))
        for kind in ("sparse", "dense")
    }
    height, width = options.size
    print("| picture | tiles | evaluations | batches | wall | equal | seams | dense, s |")
    print("|---|---|---|---|---|---|---|---|")
    totals = []
    for path in sorted(Path(options.pictures).iterdir())[: options.count]:
        hr = np.array(Image.open(path).convert("RGB"))[:height, :width]
        lr = downsample(hr, upscaler.scale, upscaler.config.data.resampling)
        attention = upscaler.attention(lr)
        work = kinds["sparse"].plan(attention[None])
        batch = kinds["sparse"].batch
        needed = [int((work.steps >= t).sum()) for t in range(1, work.chain + 1)]
        batches = sum(-(-n // batch) for n in needed)
        made, seconds = {}, {}
        if not totals:  # compiles
            upscaler.sampled(kinds["sparse"], lr, attention, 0)
        for kind, tiled in kinds.items():
            begun = time.monotonic()
            made[kind] = upscaler.sampled(tiled, lr, attention, 0)
            seconds[kind] = time.monotonic() - begun
        shares = (
            work.evaluations / work.dense_evaluations,
            batches / (work.chain * -(-len(work.tiles) // batch)),
            seconds["sparse"] / seconds["dense"],
            seams(made["sparse"], work.tiles, upscaler.scale),
        )
        equal = bool((made["sparse"] == made["dense"]).all())
        totals.append(shares)
        print(
            f"| {path.stem[:30]} | {len(work.tiles)} | {shares[0]:.3f} | {shares[1]:.3f} | "
            f"{shares[2]:.3f} | {equal} | {shares[3]:.3f} | {seconds['dense']:.1f} |",
            flush=True,
        )
    means = np.mean(totals, axis=0)
    print(f"| mean |  | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.3f} |  | {means[3]:.3f} |  |")


if __name__ == "__main__":
    main()
