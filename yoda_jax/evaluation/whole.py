"""Figures of whole pictures of any size, a file a picture, so that what is done is not done twice.

Two protocols stand side by side: RGB of all pixels, as everywhere here, and the field's own, luma
(Y) without a border of `scale` pixels.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.intervals import bootstrap
from yoda_jax.evaluation.perceptual import lpips, lpips_map
from yoda_jax.evaluation.report import markdown
from yoda_jax.pictures import Resampling, to_unit
from yoda_jax.runs import write_whole
from yoda_jax.weights.lpips import load_lpips_alex

# Figure -> (what it is called, digits).
SHOWN = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "psnr_y": ("PSNR-Y dB, border", 2),
    "ssim_y": ("SSIM-Y, border", 3),
    "lpips": ("LPIPS", 4),
    "lpips_inside": ("LPIPS, high A", 4),
    "lpips_outside": ("LPIPS, other A", 4),
    "lr_psnr": ("LR-PSNR dB", 2),
    "colour_shift": ("colour shift", 4),
    "evaluations": ("evaluations a tile", 1),
    "seconds": ("seconds", 1),
}
HIGH = 0.75  # A above this quantile of the picture's counts as high


class Made(NamedTuple):
    """A result, and what it took: evaluations of the network a tile, and seconds."""

    picture: UInt8[np.ndarray, "H W 3"]
    evaluations: float
    seconds: float


class WholeMeasure:
    """The figures of one picture of any size."""

    def __init__(self, scale: int, resampling: Resampling) -> None:
        self._scale, self._resampling = scale, resampling
        weights = load_lpips_alex()
        self._lpips = partial(jax.jit(lpips), weights)
        self._map = partial(jax.jit(lpips_map), weights)

    def __call__(
        self,
        made: Made,
        hr: UInt8[np.ndarray, "H W 3"],
        lr: UInt8[np.ndarray, "h w 3"],
        attention: UInt8[np.ndarray, "H W 1"],
    ) -> dict[str, float]:
        """Each figure of SHOWN; inside and outside are of the attention given."""
        pair, border = (made.picture, hr), self._scale
        units = to_unit(made.picture)[None], to_unit(hr)[None]
        where = np.asarray(self._map(*units))[0]
        high = attention[..., 0] > np.quantile(attention, HIGH)
        figures = {
            "psnr": fidelity.psnr(*pair),
            "ssim": fidelity.ssim(*pair),
            "psnr_y": fidelity.psnr(*pair, border, luma=True),
            "ssim_y": fidelity.ssim(*pair, border, luma=True),
            "lpips": float(self._lpips(*units)[0]),
            "lr_psnr": fidelity.lr_psnr(made.picture, lr, self._resampling),
            "colour_shift": float(np.abs(fidelity.colour_shift(*pair)).mean()),
            "evaluations": made.evaluations,
            "seconds": made.seconds,
        }
        for name, part in (("inside", high), ("outside", ~high)):
            figures[f"lpips_{name}"] = float(where[part].mean()) if part.any() else float("nan")
        return figures


class Results:
    """Figures of rows of pictures in a folder: row/picture.json."""

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder

    def path(self, row: str, picture: str) -> epath.Path:
        """Where a picture's figures in a row lie."""
        return self.folder / _safe(row) / f"{_safe(picture)}.json"

    def get(self, row: str, picture: str, asked: Mapping[str, Any]) -> dict[str, float] | None:
        """The figures that were made as asked for, or None."""
        path = self.path(row, picture)
        found = json.loads(path.read_text()) if path.exists() else {}
        return found["figures"] if found.get("asked") == json.loads(json.dumps(asked)) else None

    def put(
        self, row: str, picture: str, asked: Mapping[str, Any], figures: Mapping[str, float]
    ) -> None:
        """Keeps figures with what was asked for."""
        text = json.dumps({"row": row, "picture": picture, "asked": asked, "figures": figures})
        write_whole(self.path(row, picture), text.encode())

    def rows(self) -> dict[str, dict[str, dict[str, float]]]:
        """Row -> picture -> figures, of all that is there."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for path in sorted(self.folder.glob("*/*.json")):
            one = json.loads(path.read_text())
            found.setdefault(one["row"], {})[one["picture"]] = one["figures"]
        return found


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]], order: Sequence[str]) -> str:
    """A Markdown table of the rows' means over the pictures that all have, with 95 % intervals."""
    names = _shared(rows, order)
    lines = [["", *(name for name, _ in SHOWN.values())]]
    for row in order:
        cells = [row]
        for figure, (_, digits) in SHOWN.items():
            values = np.array([rows[row][name][figure] for name in names])
            low, high = bootstrap(values)
            cells.append(f"{values.mean():.{digits}f} ({low:.{digits}f} - {high:.{digits}f})")
        lines.append(cells)
    return markdown(lines)


def differences(
    rows: Mapping[str, Mapping[str, Mapping[str, float]]], pairs: Mapping[str, str]
) -> str:
    """A Markdown table of rows against others, paired by picture, with 95 % intervals."""
    lines = [["", "against", *(name for name, _ in SHOWN.values())]]
    for row, other in pairs.items():
        names, cells = _shared(rows, (row, other)), [row, other]
        for figure, (_, digits) in SHOWN.items():
            values = [rows[row][name][figure] - rows[other][name][figure] for name in names]
            low, high = bootstrap(np.array(values))
            cells.append(f"{np.mean(values):+.{digits}f} ({low:+.{digits}f} - {high:+.{digits}f})")
        lines.append(cells)
    return markdown(lines)


def _shared(rows: Mapping[str, Mapping[str, object]], order: Sequence[str]) -> list[str]:
    return sorted(set.intersection(*(set(rows[row]) for row in order)))


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in " .,=-" else "_" for c in name)
