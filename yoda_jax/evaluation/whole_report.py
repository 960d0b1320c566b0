"""What is told of whole pictures: tables of means and of differences by picture, and a page."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from yoda_jax.evaluation.intervals import bootstrap
from yoda_jax.evaluation.page import Comparison, Lines, page
from yoda_jax.evaluation.report import markdown
from yoda_jax.evaluation.sheet import encoded
from yoda_jax.evaluation.whole import HIGH, Rows, to_image
from yoda_jax.runs import write_whole

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
_PROTOCOL = (
    "Whole pictures. PSNR and SSIM of RGB and all pixels; PSNR-Y and SSIM-Y, the field's own, of "
    "luma without a border of {scale} pixels; LPIPS of AlexNet, of all pixels, and its mean over "
    "the {high:.0%} of highest attention and over the rest; LR-PSNR of the result reduced again; "
    "evaluations of the network a tile, and seconds on {device} without compilation. Means over "
    "pictures, without infinite ones, with bootstrap intervals of 95 %; differences are paired by "
    "picture"
)
_SHOWN_SIDES = 720, 960  # of a picture on the page at most: its middle
_MAP_SIDE, _QUALITY = 320, 95


Summaries = dict[str, dict[str, Any]]  # by figure


class Measured(NamedTuple):
    """What a set of pictures gave: rows in their order, which row is compared with which, and the
    figures that are told of them, as `SHOWN`.
    """

    rows: Rows
    order: Sequence[str]
    pairs: Mapping[str, Sequence[str]]
    shown: Mapping[str, tuple[str, int]] = SHOWN

    def tables(self) -> dict[str, Lines]:
        """Means of rows over the pictures that all have, and differences."""
        found = {"means": self._means()}
        if self.pairs:
            found["differences"] = self._differences()
        return found

    def figures(self) -> dict[str, Any]:
        """Means and intervals of each row and of each difference, for other programs."""
        names = self._shared(self.order)
        rows = {row: self._of(names, row) for row in self.order}
        minus = {f"{row} minus {other}": self._pair(row, other) for row, other in self._pairs()}
        return {"pictures": len(names), "rows": rows, "differences": minus}

    def _means(self) -> Lines:
        names = self._shared(self.order)
        lines = [["", *(name for name, _ in self.shown.values())]]
        for row in self.order:
            found = self._of(names, row)
            lines.append([row, *(_cell(found[m], digits) for m, (_, digits) in self.shown.items())])
        return lines

    def _differences(self) -> Lines:
        lines = [["", "minus", *(name for name, _ in self.shown.values())]]
        for row, other in self._pairs():
            found = self._pair(row, other)
            cells = (_cell(found[m], digits, "+") for m, (_, digits) in self.shown.items())
            lines.append([row, other, *cells])
        return lines

    def _pairs(self) -> list[tuple[str, str]]:
        return [(row, other) for row, others in self.pairs.items() for other in others]

    def _pair(self, row: str, other: str) -> Summaries:
        return self._of(self._shared((row, other)), row, other)

    def _of(self, names: Sequence[str], row: str, other: str | None = None) -> Summaries:
        """Figure -> mean and interval of a row, or of its differences to another, over pictures.

        Pictures whose figure is not finite are left out.
        """
        found = {}
        for figure in self.shown:
            values = np.array([self.rows[row][name][figure] for name in names])
            if other is not None:
                others = np.array([self.rows[other][name][figure] for name in names])
                finite = np.isfinite(values) & np.isfinite(others)
                values = values[finite] - others[finite]
            values = values[np.isfinite(values)]
            mean = float(values.mean()) if len(values) else math.nan
            low, high = bootstrap(values)
            found[figure] = {
                "mean": _finite(mean),
                "interval": [_finite(low), _finite(high)],
                "finite": len(values),
            }
        return found

    def _shared(self, order: Sequence[str]) -> list[str]:
        return sorted(set.intersection(*(set(self.rows[row]) for row in order)))


def comparison(
    name: str,
    layers: Mapping[str, UInt8[np.ndarray, "H W 3"]],
    attention: UInt8[np.ndarray, "H W 1"],
    mask: UInt8[np.ndarray, "H W 1"],
) -> Comparison:
    """The middle of a picture's versions, as they are shown on the page."""

    def middle(picture: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        sides = [min(n, most) for n, most in zip(picture.shape[:2], _SHOWN_SIDES, strict=True)]
        top, left = ((n - side) // 2 for n, side in zip(picture.shape[:2], sides, strict=True))
        return picture[top : top + sides[0], left : left + sides[1]]

    def jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
        file = io.BytesIO()
        to_image(middle(picture)).save(file, "JPEG", quality=_QUALITY, subsampling=0)
        return file.getvalue()

    def grey(picture: UInt8[np.ndarray, "H W 1"]) -> bytes:
        image = to_image(middle(picture))
        image.thumbnail((_MAP_SIDE, _MAP_SIDE))
        return encoded(image)

    shown = {label: jpeg(picture) for label, picture in layers.items()}
    return Comparison(name, shown, grey(attention), grey(mask))


def write(
    folder: epath.Path,
    title: str,
    facts: Mapping[str, Any],
    sets: Mapping[str, Measured],
    comparisons: Sequence[Comparison] = (),
    figures: Mapping[str, bytes] | None = None,
) -> str:
    """Writes metrics.json, per_image.csv and report.html, and gives the tables as text.

    facts go into metrics.json and have the `protocol`, a sentence.
    """
    found = {name: measured.figures() for name, measured in sets.items()}
    write_whole(folder / "metrics.json", json.dumps({**facts, "sets": found}, indent=2).encode())
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["set", "method", "picture", *SHOWN])
    for name, measured in sets.items():
        for row in measured.order:
            for picture, values in sorted(measured.rows[row].items()):
                writer.writerow([name, row, picture, *(f"{values[m]:.6g}" for m in SHOWN)])
    # Names that are no UTF-8 keep their bytes.
    write_whole(folder / "per_image.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    tables = {
        f"{name}, {kind}": lines
        for name, measured in sets.items()
        for kind, lines in measured.tables().items()
    }
    shown = page(title, facts["protocol"], tables, comparisons, figures)
    write_whole(folder / "report.html", shown)
    return "\n\n".join(f"{name}\n\n{markdown(lines)}" for name, lines in tables.items())


def protocol(scale: int, device: str) -> str:
    """How the figures are made, in words."""
    return _PROTOCOL.format(scale=scale, device=device, high=1 - HIGH)


def _cell(found: Mapping[str, Any], digits: int, sign: str = "") -> str:
    mean, (low, high) = found["mean"], found["interval"]
    if mean is None:
        return "-"
    text = f"{mean:{sign}.{digits}f}"
    return text if low is None else f"{text} ({low:{sign}.{digits}f} - {high:{sign}.{digits}f})"


def _finite(value: float) -> float | None:
    # JSON knows neither NaN nor infinity.
    return float(value) if math.isfinite(value) else None
