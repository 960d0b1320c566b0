"""What leaving tiles out saves: python -m tests.bench.sparse --workdir=RUN --pictures=FOLDER.

Photographs are reduced by the run's scale and up-scaled again with the run's weights, its source of
attention and its mask: by all tiles at all steps and by those that are needed alone, in turns, and
the first of them on the whole frame at once too. Prints a Markdown table: evaluations, batches and
wall time as ratios to the dense tiled chain, whether the results are equal; then what share of a
dense chain is spent outside of the network.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from PIL import Image

from yoda_jax import frames
from yoda_jax.data.degrade import downsample
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler

# Of the functions of `frames`: what is done for each step, and for each batch of tiles in it.
_OUTSIDE = ("level", "seen", "taken", "added", "advance")


def timed(run: Callable) -> float:
    begun = time.monotonic()
    jax.block_until_ready(run())
    return time.monotonic() - begun


def spent(run: Callable) -> Counter:
    """Seconds by function of `frames`, each waited for."""
    seconds, kept = Counter(), {name: getattr(frames, name) for name in (*_OUTSIDE, "estimate")}

    def waiting(name: str) -> Callable:
        def call(*arguments: object) -> object:
            begun = time.monotonic()
            result = jax.block_until_ready(kept[name](*arguments))
            seconds[name] += time.monotonic() - begun
            return result

        return call

    for name in kept:
        setattr(frames, name, waiting(name))
    run()
    for name, function in kept.items():
        setattr(frames, name, function)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--pictures", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--whole", type=int, default=1, help="of them on the whole frame at once")
    parser.add_argument("--size", type=int, nargs=2, default=(1000, 1500), help="height, width")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    use_all_cpu_cores((options.batch,))
    upscaler = Upscaler.load(options.workdir)
    chosen = {"steps": options.steps, "tile": options.tile, "batch": options.batch}
    sparse, dense = (upscaler.tiled(Sampling(**chosen, sparse=kind)) for kind in (True, False))
    height, width = options.size
    print("| picture | tiles | evaluations | batches | wall | equal | dense | whole / dense |")
    print("|---|---|---|---|---|---|---|---|")
    totals = []
    for i, path in enumerate(sorted(Path(options.pictures).iterdir())[: options.count]):
        hr = np.array(Image.open(path).convert("RGB"))[:height, :width]
        lr = downsample(hr, upscaler.scale, upscaler.config.data.resampling)
        attention = upscaler.attention(lr)
        work = sparse.plan(attention[None])
        needed = [int((work.steps >= t).sum()) for t in range(1, work.chain + 1)]
        batches = sum(-(-n // sparse.batch) for n in needed)
        made = {}

        def sample(tiled: object, made: dict = made, given: tuple = (lr, attention)) -> None:
            made[tiled] = upscaler.sampled(tiled, *given, 0)

        if not totals:  # compiles
            sample(sparse)
        seconds = {tiled: timed(lambda t=tiled: sample(t)) for tiled in (sparse, dense)}
        whole = "-"
        if i < options.whole:
            given = upscaler.params, jax.random.key(0)[None], lr[None], attention[None]
            run = partial(dense.method.sample, *given)
            timed(run)
            whole = f"{timed(run) / seconds[dense]:.3f}"
        shares = (
            work.evaluations / work.dense_evaluations,
            batches / (work.chain * -(-len(work.tiles) // sparse.batch)),
            seconds[sparse] / seconds[dense],
        )
        totals.append(shares)
        equal = "yes" if (made[sparse] == made[dense]).all() else "NO"
        cells = " | ".join(f"{share:.3f}" for share in shares)
        print(
            f"| {path.stem[:30]} | {len(work.tiles)} | {cells} | {equal} | "
            f"{seconds[dense]:.1f} s | {whole} |",
            flush=True,
        )
    print(f"| mean | | {' | '.join(f'{mean:.3f}' for mean in np.mean(totals, axis=0))} | | | |")
    of = spent(lambda: sample(dense))
    outside = sum(of[name] for name in _OUTSIDE) / of.total()
    print(f"\noutside of the network: {outside:.1%} of a dense chain's steps")


if __name__ == "__main__":
    main()
