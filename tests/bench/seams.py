"""Can the borders of tiles be seen? python -m tests.bench.seams --workdir=RUN --pictures=FOLDER.

Photographs and a gradient like a sky are up-scaled on the whole frame at once and by tiles with
halos of several widths, with the same noise. Prints, for each halo, the mean step of brightness
across cores' borders over that across other borders of LR pixels, over the same of the whole frame:
1 where tiles leave no trace. The worst of both directions and of all pictures.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from PIL import Image

from yoda_jax.data.degrade import downsample
from yoda_jax.diffusion.tiles import Tiles, cut
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler


def sky(height: int, width: int) -> np.ndarray:
    """A smooth gradient, on which lines show most."""
    down, along = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    blue = np.array([90.0, 140.0, 210.0])
    return np.rint(blue + 40 * (down + 0.3 * along)[..., None]).clip(0, 255).astype(np.uint8)


def jump(picture: np.ndarray, tiles: Tiles, scale: int, axis: int) -> float:
    """Mean |difference| of neighbours across cores' borders, over that at other LR pixels'."""
    grey = picture.astype(float).mean(-1)
    steps = np.abs(np.diff(grey, axis=axis)).mean(1 - axis)
    borders = np.unique(tiles.corners[:, 1 + axis] + tiles.cores[:, 2 + axis] - 1)
    at = np.zeros(len(steps), bool)
    at[borders[borders < len(steps)]] = True
    others = ~at & (np.arange(len(steps)) % scale == scale - 1)
    return float(steps[at].mean() / steps[others].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--pictures", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 448), help="height, width")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--halos", type=int, nargs="+", default=(0, 4, 8, 16))
    options = parser.parse_args()
    use_all_cpu_cores((8,))
    upscaler = Upscaler.load(options.workdir)
    scale, (height, width) = upscaler.scale, options.size
    dense = upscaler.tiled(Sampling(steps=options.steps, tile=options.tile, sparse=False))
    paths = sorted(Path(options.pictures).iterdir())[: options.count]
    pictures = [np.array(Image.open(path).convert("RGB"))[:height, :width] for path in paths]
    worst = dict.fromkeys(options.halos, 0.0)
    for hr in (*pictures, sky(height, width)):
        lr = downsample(hr, scale, upscaler.config.data.resampling)
        attention = upscaler.attention(lr)
        given = jax.random.key(0)[None], lr[None], attention[None]
        whole = np.asarray(dense.method.sample(upscaler.params, *given)[0][0])
        for halo in options.halos:
            tiled = dataclasses.replace(dense, halo=halo)
            made = upscaler.sampled(tiled, lr, attention, 0)
            side = tiled.tile // scale
            tiles = cut(1, lr.shape[:2], (side, side), -(-halo // scale)).times(scale)
            for axis in (0, 1):
                ratio = jump(made, tiles, scale, axis) / jump(whole, tiles, scale, axis)
                worst[halo] = max(worst[halo], ratio)
    print(f"| halo | {' | '.join(map(str, worst))} |")
    print(f"|---|{'---|' * len(worst)}")
    print(f"| tiles of {dense.tile} | {' | '.join(f'{ratio:.3f}' for ratio in worst.values())} |")


if __name__ == "__main__":
    main()
