"""How good is a model of photographs? python -m tests.bench.photos --held-out=FOLDER.

Squares of 320x320 out of the middle of photographs that it never saw, four of scikit-image and as
many of a folder, are reduced by Pillow's bicubic rule and up-scaled by the model as it is shipped,
without its mask, by a late start that costs as much, by its encoder alone and by what is named with
--peers (files of `tests.bench.rdn`). Prints a Markdown table and what the model's figures are to
those of bicubic interpolation. What was made lies in --output, with a sheet of
pictures.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from etils import epath
from PIL import Image
from skimage import data

from tests.bench import rdn
from yoda_jax.configuration import inference
from yoda_jax.data.degrade import downsample
from yoda_jax.evaluation.report import markdown
from yoda_jax.evaluation.sheet import picture_sheet
from yoda_jax.evaluation.whole import Made, Results, WholeMeasure, enlarged, sampled
from yoda_jax.evaluation.whole_report import Measured
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.upscaler import Sampling, Upscaler

SIDE, CLOSE, RULE = 320, 160, "pil"
SHIPPED = ("astronaut", "coffee", "chelsea", "rocket")


def middle(picture: np.ndarray, most: int = SIDE) -> np.ndarray:
    height, width = (min(most, side) // 4 * 4 for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="photos_x4", help="as Upscaler.load takes it")
    parser.add_argument("--held-out", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=4, help="of them")
    parser.add_argument("--peers", nargs="*", default=())
    parser.add_argument("--shown", type=int, default=4, help="pictures on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="runs/bench_photos")
    options = parser.parse_args()
    use_all_cpu_cores((8,))
    pictures = {name: middle(getattr(data, name)()) for name in SHIPPED}
    for path in sorted(Path(options.held_out).iterdir())[: options.count]:
        pictures[path.stem] = middle(np.array(Image.open(path).convert("RGB")))
    upscaler = Upscaler.load(options.model)
    scale = upscaler.scale
    encoder = inference.encoder_alone(upscaler.config, upscaler.params["encoder"])
    by_dino = upscaler.config.copy_and_resolve_references()
    by_dino.attention.update(source=inference.PACKAGED_BACKBONE, weights=inference.PACKAGED)
    by_dino = Upscaler(by_dino, upscaler.params)
    peers = {Path(path).stem: rdn.load(path) for path in options.peers}
    measure, rows, shown = WholeMeasure(scale, RULE), {}, {}
    results = Results(epath.Path(options.output))

    for name, hr in pictures.items():
        lr = downsample(hr, scale, RULE)
        own, dino = upscaler.attention(lr), by_dino.attention(lr)
        shipped, dense = (upscaler.tiled(Sampling(**how)) for how in ({}, {"mask": False}))
        work = shipped.plan(dino[None])
        late = Sampling(late_start=work.evaluations / len(work.tiles) / work.chain)
        ways = {
            "shipped": (shipped, own),
            "without a mask": (dense, own),
            "DINO's map": (shipped, dino),
            "constant at the cost of DINO's": (upscaler.tiled(late), np.zeros_like(own)),
        }
        made = {"bicubic": enlarged(lr, scale, RULE), "encoder alone": timed(encoder, lr)}
        for way, (tiled, attention) in ways.items():
            sample = partial(upscaler.sampled, tiled, lr, attention, options.seed)
            made[way] = sampled(tiled, attention, sample)
        made |= {peer: timed(run, lr) for peer, run in peers.items()}
        for label, picture in (
            ("LR", lr.repeat(scale, axis=0).repeat(scale, axis=1)),
            *((row, made[row].picture) for row in ("bicubic", "encoder alone", "shipped")),
            ("HR", hr),
        ):
            shown.setdefault(label, []).append(middle(picture, CLOSE))
        for row, result in made.items():
            figures = measure(result, hr, lr, dino)
            rows.setdefault(row, {})[name] = figures
            results.put(row, name, {}, figures, result.picture)
    sheet = picture_sheet({label: of[: options.shown] for label, of in shown.items()}, CLOSE)
    sheet.save(Path(options.output) / "sheet.png")
    for name, table in Measured(rows, list(rows), {"shipped": list(rows)[:1]}).tables().items():
        print(f"\n{name}\n\n{markdown(table)}")
    for row in rows:
        ratio = mean(rows[row], "lpips") / mean(rows["bicubic"], "lpips")
        gap = mean(rows[row], "psnr_y") - mean(rows["bicubic"], "psnr_y")
        print(f"{row}: {ratio:.3f} of bicubic's LPIPS, {gap:+.2f} dB PSNR-Y")


def mean(figures: dict[str, dict[str, float]], name: str) -> float:
    return float(np.mean([of_picture[name] for of_picture in figures.values()]))


def timed(run: Callable[[np.ndarray], np.ndarray], lr: np.ndarray) -> Made:
    """In the second run, which compiles nothing."""
    run(lr)
    begun = time.monotonic()
    picture = run(lr)
    return Made(picture, 1.0, time.monotonic() - begun)


if __name__ == "__main__":
    main()
