"""eval: a checkpoint on held-out squares, or on sets of whole pictures -> tables, figures, page."""

import json
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict

from yoda_jax import frames
from yoda_jax.configuration import build, inference, restore
from yoda_jax.configuration.restore import Weights
from yoda_jax.data.catalogue import Load
from yoda_jax.data.degrade import downsample
from yoda_jax.data.photos import Source, open_sets
from yoda_jax.errors import UserError
from yoda_jax.evaluation import report, whole_report
from yoda_jax.evaluation.page import Comparison
from yoda_jax.evaluation.whole import (
    Results,
    WholeMeasure,
    enlarged,
    made_by,
    pixels_print,
    sampled,
)
from yoda_jax.evaluation.whole_report import Measured
from yoda_jax.jobs import precompute
from yoda_jax.logs import Eta
from yoda_jax.processes import decided, is_first, together
from yoda_jax.runs import Run
from yoda_jax.upscaler import Sampling, Upscaler
from yoda_jax.yoda import Yoda

_BICUBIC, _ATTENTION, _MASK = "bicubic", "attention", "mask"
_TILES = 8  # at once, a device
_LEAST = 32  # pixels a side that LPIPS needs


def run(
    config: ConfigDict, workdir: str, step: int | None = None, against: str | None = None
) -> None:
    """Samples pictures from the newest checkpoint, or that of a step, and reports.

    These are the held-out records, or the whole pictures of eval.sets; of those, differences to the
    same evaluation of another run are taken too, where `against` names it.
    """
    where = Run(workdir)
    if against and not config.eval.sets:
        raise UserError(
            f"--against={against} is for whole pictures, found no --config.eval.sets; name some, "
            "for example --config.eval.sets=Set5:folder:/data/Set5."
        )
    weights = restore.weights(config, where, step)
    if config.eval.sets:
        _whole(config, where, weights, against)
    else:
        _squares(config, where, weights)


def _squares(config: ConfigDict, where: Run, weights: Weights) -> None:
    precompute.run(config, str(where), splits=("eval",))
    compared, method = build.comparison(config, where), inference.method(config)
    folder = where.evaluation(config.eval.name)
    compared.check_own(folder)
    compared.add_bicubic(method)
    compared.add(_label(config, weights), method, weights.params, config.seed)
    facts = {"step": weights.step}
    compared.report(folder, build.setting(config), config.mask.lower_bound, facts)


def _label(config: ConfigDict, weights: Weights) -> str:
    name, masked = config.model.name, config.mask.enabled
    if weights.mask["enabled"]:
        name += f" + {report.yoda_label(weights.mask)}{'' if masked else ' without mask'}"
    elif masked:
        name += " + mask"
    return f"{name}, step {weights.step}"


def _whole(config: ConfigDict, where: Run, weights: Weights, against: str | None) -> None:
    """Pictures whose figures are there stay as they are; they are shared out over processes."""
    sets = open_sets(config.eval.sets, config.data.tfds_dir or None)
    folder = _folder(config, where)
    rival = decided(lambda: _rival(config, against, list(sets))) if against else None
    upscaler, label = Upscaler(config, weights.params), _label(config, weights)
    one = _OfOne(config, upscaler, weights, label)
    eta, done = Eta("pictures", sum(map(len, sets.values()))), 0

    def my_part() -> None:
        nonlocal done
        for name, source in sets.items():
            results = Results(folder / name)
            for i in range(jax.process_index(), len(source), jax.process_count()):
                one(results, *next(source.read(i, i + 1)))
                eta.reached(done + i + 1)
            done += len(source)

    together(my_part)
    if is_first():
        measured = {}
        for name in sets:
            results = Results(folder / name)
            names = list(sets[name].names)
            rows, order, others = results.rows(names, one.asked), [_BICUBIC, label], [_BICUBIC]
            if against:
                other = f"{rival} of {against}"
                theirs = Results(_folder(config, Run(against)) / name)
                rows[other] = _paired(theirs, rival, results, label, names)
                order, others = [_BICUBIC, other, label], [_BICUBIC, other]
            measured[name] = Measured(rows, order, {label: others})
        shown = _comparisons(config, sets, folder, label, one.hr)
        curves = where.folder / "sweep/curves.png"  # of mode sweep
        drawn = {"Quality against seconds": curves.read_bytes()} if curves.exists() else {}
        facts = {
            "protocol": whole_report.protocol(upscaler.scale, jax.devices()[0].device_kind),
            "sampled": build.setting(config),
            "step": weights.step,
            "label": label,
            "jax": jax.__version__,
        }
        title = "Evaluation of whole pictures"
        text = whole_report.write(folder, title, facts, measured, shown, drawn)
        print(f"\n{facts['protocol']}.\n\n{text}\n")
        print(f"pictures {folder}\nreport   {folder / 'report.html'}")


def _folder(config: ConfigDict, run: Run) -> epath.Path:
    return run.evaluation(config.eval.name) / "sets"


class _OfOne:
    """Makes and measures one picture of a set, unless that was done already."""

    def __init__(
        self, config: ConfigDict, upscaler: Upscaler, weights: Weights, label: str
    ) -> None:
        self._upscaler, self._label, self._data = upscaler, label, config.data
        self._seed = config.seed
        # A batch of tiles is filled up, so that a large one would undo what the mask saves.
        most = _TILES * jax.local_device_count()
        batch = max(1, min(config.eval.batch_size // jax.process_count(), most))
        steps = config.diffusion.sampling_steps
        self._tiled = upscaler.tiled(Sampling(batch=batch, steps=steps))
        self._measure = WholeMeasure(upscaler.scale, config.data.resampling)
        self.asked = made_by(config.to_dict(), weights.params, config.seed)

    def __call__(self, results: Results, name: str, load: Load) -> None:
        hr = self.hr(name, load)
        asked = self.asked | {"picture": pixels_print(hr)}
        if all(results.get(row, name, asked) for row in (_BICUBIC, self._label)):
            return
        lr = downsample(hr, self._upscaler.scale, self._data.resampling)
        attention = self._upscaler.attention(lr)
        sample = partial(self._upscaler.sampled, self._tiled, lr, attention, self._seed)
        share = np.zeros_like(attention)
        if isinstance(method := self._tiled.method, Yoda):
            steps = np.asarray(frames.steps(method, attention[None])[0], np.float32)
            share = np.rint(255 * steps / method.sampling_steps).astype(np.uint8)
        results.put(_ATTENTION, name, asked, {}, attention)
        results.put(_MASK, name, asked, {}, share)
        for row, made in (
            (_BICUBIC, enlarged(lr, self._upscaler.scale, self._data.resampling)),
            (self._label, sampled(self._tiled, attention, sample)),
        ):
            figures = self._measure(made, hr, lr, attention)
            results.put(row, name, asked, figures, made.picture)

    def hr(self, name: str, load: Load) -> UInt8[np.ndarray, "H W 3"]:
        """The picture without what is more than a multiple of the scale, at the right and below."""
        hr, scale = load(self._data.max_megapixels * 1_000_000), self._upscaler.scale
        height, width = (side // scale * scale for side in hr.shape[:2])
        if min(height, width) < _LEAST:
            raise UserError(
                f"{name} is of {hr.shape[1]}x{hr.shape[0]} pixels, expected at least {_LEAST} a "
                "side, which LPIPS needs; take it out of eval.sets."
            )
        return hr[:height, :width]


def _rival(config: ConfigDict, against: str, sets: list[str]) -> str:
    """The label of another run's evaluation under the same name.

    Raises UserError where it was not evaluated on one of the sets.
    """
    path = _folder(config, Run(against)) / "metrics.json"
    found = json.loads(path.read_text()) if path.exists() else {"sets": {}}
    if missing := [name for name in sets if name not in found["sets"]]:
        raise UserError(
            f"--against={against} must be a run that was evaluated on {', '.join(sets)}, found no "
            f"{missing[0]} in {path}; evaluate it first by --mode=eval with the same eval.sets."
        )
    return found["label"]


def _paired(
    theirs: Results, label: str, mine: Results, own: str, names: list[str]
) -> dict[str, dict[str, float]]:
    """The row of another evaluation; raises UserError where it saw other pictures."""
    here, there = mine.asked(own), theirs.asked(label)
    for name in here.keys() & there.keys():
        if here[name]["picture"] != there[name]["picture"]:
            raise UserError(
                f"--against saw another picture {name} ({there[name]['picture']} there, "
                f"{here[name]['picture']} here, as size and checksum); evaluate it anew."
            )
    return theirs.rows(names, {})[label]


def _comparisons(
    config: ConfigDict, sets: dict[str, Source], folder: epath.Path, label: str, hr: Callable
) -> list[Comparison]:
    """Pictures for the page, evenly spread over those of all sets."""
    every = [(name, i) for name, source in sets.items() for i in range(len(source))]
    count, found = min(config.eval.sheet_pictures, len(every)), []
    for name, i in (every[k * len(every) // count] for k in range(count)):
        (picture, load), results = next(sets[name].read(i, i + 1)), Results(folder / name)
        layers = {row: results.picture(row, picture) for row in (_BICUBIC, label)}
        layers["HR"] = hr(picture, load)
        maps = (results.picture(row, picture) for row in (_ATTENTION, _MASK))
        found.append(whole_report.comparison(f"{name}: {picture}", layers, *maps))
    return found
