"""upscale: one's own picture, or a folder of them, to pictures of `scale` times the size."""

import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from yoda_jax.data.decode import BadPicture, silent_decoders
from yoda_jax.data.folders import pictures
from yoda_jax.data.planes import WRITTEN, Planes, check_size, write_picture
from yoda_jax.errors import UserError
from yoda_jax.evaluation.trajectory import Trajectory
from yoda_jax.processes import decided, together
from yoda_jax.runs import located, on_a_disk
from yoda_jax.tiled import Tiled
from yoda_jax.upscaler import Sampling, Upscaler, parameters_of

_QUALITY = 95  # of JPEG and WebP
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
_UNIT = {"darwin": 2**30}.get(sys.platform, 2**20)  # of the peak's memory in a GiB


def run(
    config: ConfigDict,
    source: str,
    input: str,
    output: str | None,
    step: int | None,
    quality: int | None,
    trajectory: str | None,
    sampling: dict[str, Any],
) -> None:
    """Up-scales a picture or the pictures below a folder, by what `Upscaler.load` takes as source.

    Without `output` results lie beside their pictures, those of a folder in a folder beside it.
    One that is there already is left alone. A picture that cannot be read is named and the others
    go on. Raises UserError then, in the end, and before for what cannot work at all.
    """
    works = _works(input, output, config.data.scale)
    if trajectory and len(works) > 1:
        raise UserError("--trajectory is of one picture, found a folder; name a picture.")
    if decided(lambda: _are_there(works)):
        return
    upscaler = Upscaler(config, parameters_of(config, source, step))
    options = Sampling(**sampling)
    tiled, bad, seconds = upscaler.tiled(options), [], None

    def upscale(source: Path, target: Path) -> None:
        nonlocal seconds
        planes = Planes.of_file(source, config.data.max_megapixels * 1_000_000)
        height, width = (upscaler.scale * side for side in planes.colours.shape[:2])
        check_size((width, height), target)
        attention = upscaler.attention(planes.colours, options)
        if seconds is None:
            seconds = tiled.seconds_a_batch(upscaler.params)
        _tell(tiled, planes, source, attention, seconds)
        shown = Trajectory(tiled.method, (height, width)) if trajectory else None
        with tqdm(total=1.0, desc=target.name, bar_format=_BAR, file=sys.stderr) as bar:
            given = (planes.colours, attention, options.seed)
            picture = upscaler.sampled(tiled, *given, lambda s: bar.update(s - bar.n), shown)
        image = planes.enlarged(picture)
        write_picture(image, target, quality or _QUALITY)
        print(f"{target}: {image.width}x{image.height}", flush=True)
        if shown is not None:
            shown.write(trajectory)

    def my_part() -> None:
        for source, target in works[jax.process_index() :: jax.process_count()]:
            try:
                if not target.exists():
                    upscale(source, target)
            except BadPicture as error:
                logging.error("%s", error)
                bad.append(os.fspath(source))

    with silent_decoders():
        together(my_part)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNIT
    logging.info("done, with %.1f GiB of memory at most", peak)
    if bad:
        raise UserError(
            f"{len(bad)} of {len(works)} pictures could not be up-scaled, first {bad[0]}; mend or "
            "remove them and run again, which makes these alone."
        )


def _works(input: str, output: str | None, scale: int) -> list[tuple[Path, Path]]:
    """(picture, where its result goes) for each picture; raises UserError for wrong paths.

    A folder's results have the names NAME_4x.png, in folders like those of the pictures.
    """
    source = Path(located(on_a_disk("--input", input)))
    if not source.exists():
        raise UserError(f"--input={input} must be a picture or a folder of some, found nothing.")
    named = output is not None
    if not named:
        beside = source.resolve().parent
        name = source.resolve().name
        output = os.fspath(beside if source.is_file() else beside / f"{name}_{scale}x")
    target = Path(located(output))
    if source.is_file():
        if not target.suffix or target.is_dir():
            target = target / f"{source.stem}_{scale}x.png"
        _check_ending(target, output)
        return [(source, target)]
    if named and target.suffix and not target.is_dir():
        raise UserError(
            f"--output={output} must be a folder, as --input={input} is one; leave out the ending."
        )
    every = sorted(pictures(input, [source], pairs=True)[0])
    inside = target.resolve()  # results of before are no pictures of one's own
    if source.resolve() in inside.parents:
        every = [(name, path) for name, path in every if inside not in Path(path).resolve().parents]
    found = [(Path(name), Path(path)) for name, path in every]
    if not found:
        raise UserError(f"--input={input} must hold pictures beside --output={output}, found none.")
    stems = Counter(name.with_suffix("") for name, _ in found)
    works = []
    for name, path in found:
        stem = name.stem if stems[name.with_suffix("")] == 1 else name.name
        works.append((path, target / name.parent / f"{stem}_{scale}x.png"))
    made = {result.resolve() for _, result in works}  # in the same folder, results of before
    return [(path, result) for path, result in works if path.resolve() not in made]


def _check_ending(target: Path, output: str) -> None:
    if target.suffix.lower() not in WRITTEN:
        raise UserError(
            f"--output={output} must end in {', '.join(WRITTEN)}, found {target.suffix!r}."
        )


def _are_there(works: list[tuple[Path, Path]]) -> bool:
    """Whether all results are there already; names those that are."""
    found = [target for _, target in works if target.exists()]
    for target in found:
        print(f"{target} is there already and stays; delete it to have it made anew")
    return len(found) == len(works)


def _tell(
    tiled: Tiled, planes: Planes, source: Path, attention: np.ndarray, seconds: float
) -> None:
    """Says, before it is done, what work a picture is."""
    height, width = planes.colours.shape[:2]
    text = f"{source.name}: {width}x{height} to {tiled.method.scale * width}x"
    text += f"{tiled.method.scale * height}"
    if tiled.diffuses:
        work = tiled.plan(attention[None])
        share = work.evaluations / work.dense_evaluations
        text += (
            f", {work.evaluations:,} of {work.dense_evaluations:,} evaluations of a tile "
            f"({share:.2f}), about {seconds * work.evaluations / tiled.batch:.0f} s"
        )
    logging.info("%s", text)
