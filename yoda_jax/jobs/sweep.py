"""sweep: does leaving tiles out pay? Samplers, steps and bounds on whole pictures, at equal cost.

For each chain and mask stand beside it: the same chain on all tiles without a mask; a shorter chain
without a mask, and a constant map (the whole picture starts late), that take as many evaluations of
the network.
"""

import io
import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict

from yoda_jax.configuration import inference, restore
from yoda_jax.data.degrade import downsample
from yoda_jax.data.photos import open_splits
from yoda_jax.diffusion.mask import sampling_steps
from yoda_jax.errors import UserError
from yoda_jax.evaluation import whole_report
from yoda_jax.evaluation.sweep_report import curves
from yoda_jax.evaluation.whole import (
    Results,
    Rows,
    WholeMeasure,
    enlarged,
    made_by,
    pixels_print,
    sampled,
)
from yoda_jax.evaluation.whole_report import Measured
from yoda_jax.logs import Eta
from yoda_jax.processes import is_first, together
from yoda_jax.runs import Run, write_whole
from yoda_jax.upscaler import Sampling, Upscaler

BICUBIC = "bicubic"


class Chain(NamedTuple):
    """A point of the sweep."""

    steps: int
    sampler: str
    lower_bound: float
    truncate: float

    @property
    def label(self) -> str:
        """In words."""
        late = f", q={self.truncate:g}" if self.truncate else ""
        return f"{self.sampler}, {self.steps} steps, l={self.lower_bound:g}{late}"


def run(config: ConfigDict, workdir: str, step: int | None = None) -> None:
    """Samples the held-out pictures whole in every way of config.sweep; writes table and curves.

    Figures are kept by picture: a sweep that was stopped goes on. Pictures are shared out over
    processes.
    """
    where, c = Run(workdir), config.sweep
    if not inference.network(config).diffuses:
        raise UserError(
            f"--mode=sweep needs a network that diffuses, found model.name={config.model.name}."
        )
    weights = restore.weights(config, where, step)
    upscaler = Upscaler(config, weights.params)
    chains = [Chain(*p) for p in itertools.product(c.steps, c.samplers, c.bounds, c.truncate)]
    results = Results(where.folder / "sweep")
    measure = WholeMeasure(upscaler.scale, config.data.resampling)
    pictures = _pictures(config)
    shared = made_by(config.to_dict(), weights.params, config.seed)
    mine = pictures[jax.process_index() :: jax.process_count()]
    eta = Eta("sweep", len(mine) * len(chains))
    for i, (name, hr) in enumerate(mine):
        lr = downsample(hr, upscaler.scale, config.data.resampling)
        own = upscaler.attention(lr)
        asked = shared | {"picture": pixels_print(hr)}
        if results.get(BICUBIC, name, asked) is None:
            made = enlarged(lr, upscaler.scale, config.data.resampling)
            results.put(BICUBIC, name, asked, measure(made, hr, lr, own))
        for j, chain in enumerate(chains):
            for label, sampling, attention in _rows(upscaler, chain, own, config.seed):
                if results.get(label, name, asked) is None:
                    tiled = upscaler.tiled(sampling)
                    sample = partial(upscaler.sampled, tiled, lr, attention, config.seed)
                    made = sampled(tiled, attention, sample)
                    results.put(label, name, asked, measure(made, hr, lr, own))
            eta.reached(i * len(chains) + j + 1)
    together(lambda: None)
    if is_first():
        rows = results.rows([name for name, _ in pictures], shared)
        _report(results.folder, rows, chains, upscaler.scale)


def _pictures(config: ConfigDict) -> list[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
    """The held-out pictures, cut to the scale and to the largest size asked for."""
    data = config.data
    source = open_splits(data.train, data.eval, data.holdout, data.tfds_dir or None)["eval"]
    if isinstance(source, UserError):
        raise source
    found = []
    for name, load in source.read(0, min(len(source), config.sweep.pictures)):
        hr = load(data.max_megapixels * 1_000_000)
        height, width = (min(n, config.sweep.size) // data.scale * data.scale for n in hr.shape[:2])
        top, left = (hr.shape[0] - height) // 2, (hr.shape[1] - width) // 2
        found.append((name, hr[top : top + height, left : left + width]))
    return found


def _rows(
    upscaler: Upscaler, chain: Chain, own: UInt8[np.ndarray, "H W 1"], seed: int
) -> Iterator[tuple[str, Sampling, UInt8[np.ndarray, "H W 1"]]]:
    """(label, how it is sampled, attention) of a chain under the map, and of its controls."""
    shared = {"seed": seed, "sampler": chain.sampler}
    masked = Sampling(
        **shared,
        steps=chain.steps,
        mask=True,
        lower_bound=chain.lower_bound,
        truncate=chain.truncate,
    )
    work = upscaler.tiled(masked).plan(own[None])
    cost = max(1, round(work.evaluations / len(work.tiles)))
    yield f"map: {chain.label}", masked, own
    dense = Sampling(**shared, steps=chain.steps, mask=False)
    yield f"dense: {chain.sampler}, {chain.steps} steps", dense, own
    short = Sampling(**shared, steps=cost, mask=False)
    yield f"fewer steps: as {chain.label}", short, own
    late = Sampling(**shared, steps=chain.steps, mask=True, lower_bound=0.0, truncate=0.0)
    level = np.arange(256, dtype=np.float32)[None, :, None, None] / 255
    method = upscaler.tiled(late).method
    steps = np.asarray(sampling_steps(level, method.mask, method.schedule()))[0, :, 0, 0]
    flat = np.full_like(own, np.abs(steps - cost).argmin())
    yield f"constant: as {chain.label}", late, flat


def _report(folder: epath.Path, rows: Rows, chains: list[Chain], scale: int) -> None:
    order = [BICUBIC]
    pairs = {}
    for chain in chains:
        mapped = f"map: {chain.label}"
        controls = [f"{kind}: as {chain.label}" for kind in ("fewer steps", "constant")]
        order += [f"dense: {chain.sampler}, {chain.steps} steps", mapped, *controls]
        pairs[mapped] = controls
    measured = Measured(rows, list(dict.fromkeys(order)), pairs)
    png = io.BytesIO()
    curves(rows, measured.order).savefig(png, format="png", dpi=110)
    facts = {"protocol": whole_report.protocol(scale, jax.devices()[0].device_kind)}
    drawn = {"Quality against seconds": png.getvalue()}
    text = whole_report.write(
        folder, "Does leaving tiles out pay?", facts, {"sweep": measured}, (), drawn
    )
    write_whole(folder / "curves.png", png.getvalue())
    print(f"\n{text}\n\nreport {folder / 'report.html'}")
