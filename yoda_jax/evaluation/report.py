"""What an evaluation leaves behind: a table, figures a picture, one page with its sheet."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from PIL import Image

from yoda_jax.evaluation.intervals import by_picture, interval
from yoda_jax.evaluation.page import Lines, page
from yoda_jax.evaluation.sheet import encoded
from yoda_jax.runs import write_whole

_UNITS = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "colour_shift": ("colour shift", 4),
    "lr_psnr": ("LR-PSNR dB", 2),
    "psnr_y": ("PSNR-Y dB", 2),
    "ssim_y": ("SSIM-Y", 3),
    "diffused": ("diffused", 3),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One method: its label, and per metric a list of values, one an example."""

    label: str
    values: Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A metric of all rows: means of pictures, since examples cut from one are not independent.

    An example of infinite PSNR in any row is left out of all of them.
    """

    values: Float[np.ndarray, "rows pictures"]
    left_out: int

    def mean(self, row: int) -> tuple[float, float]:
        """(mean over pictures, its standard error); nan where none is finite, or of one alone."""
        values = self.values[row]
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return float(values.mean()), float(error)

    def difference(self, row: int, reference: int) -> tuple[float, float]:
        """(mean, half its 95 % interval) of a row's differences to another, picture by picture."""
        return interval((self.values[row] - self.values[reference])[None])


def summarise(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Summary]:
    """The metrics that all rows have, over the pictures called `names` (one an example)."""
    metrics = [m for m in rows[0].values if all(m in row.values for row in rows)]
    stacked = {m: np.array([row.values[m] for row in rows], np.float64) for m in metrics}
    return {
        m: Summary(by_picture(v, names), int((~np.isfinite(v)).any(0).sum()))
        for m, v in stacked.items()
    }


def table(rows: Sequence[Row], names: Sequence[str], reference: int = 0) -> str:
    """Two Markdown tables: means ± standard errors over pictures, and differences to a row.

    Differences are paired by picture, with 95 % intervals; columns are aligned for a terminal.
    """
    means, differences = _tables(rows, names, reference)
    text = markdown(means)
    if len(rows) > 1:
        text += f"\n\n{markdown(differences)}"
    return f"{text}\n\n{out}" if (out := _left_out(rows, names)) else text


def _tables(rows: Sequence[Row], names: Sequence[str], reference: int) -> tuple[Lines, Lines]:
    found = summarise(rows, names)
    shown = [(found[m], unit, digits) for m, (unit, digits) in _UNITS.items() if m in found]
    units = [unit for _, unit, _ in shown]
    means, differences = [["", *units]], [[f"minus {rows[reference].label}", *units]]
    for i, row in enumerate(rows):
        means.append([row.label, *(figure(*s.mean(i), d) for s, _, d in shown)])
        if i != reference:
            cells = (figure(*s.difference(i, reference), d, "+") for s, _, d in shown)
            differences.append([row.label, *cells])
    return means, differences


def _left_out(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A sentence on examples of infinite value, or nothing."""
    found = summarise(rows, names)
    counts = {unit: found[m].left_out for m, (unit, _) in _UNITS.items() if m in found}
    out = [f"{unit} {count}" for unit, count in counts.items() if count]
    return f"Examples of infinite value, left out of all rows: {', '.join(out)}." if out else ""


def figure(value: float, error: float, digits: int, sign: str = "") -> str:
    """A figure with its error, if there is one, to so many digits."""
    text = f"{value:{sign}.{digits}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"


def markdown(lines: Lines) -> str:
    """A Markdown table whose first line is its head, in columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    text = [f"| {' | '.join(line)} |" for line in padded]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def yoda_label(mask: Mapping[str, Any]) -> str:
    """How tables name a training with the fields of a mask; the paper draws t uniformly."""
    return "YODA, t by area" if mask["times"] == "area" else "YODA"


def write(
    folder: epath.Path,
    rows: Sequence[Row],
    names: Sequence[str],
    examples: Sequence[str],
    facts: Mapping[str, Any],
    sheet: Image.Image,
    reference: int = 0,
) -> None:
    """Writes metrics.json, per_image.csv, sheet.png and report.html, each whole.

    names are those of pictures, one an example; examples how each is called in per_image.csv. facts
    go into metrics.json and have the `protocol`, a sentence.
    """
    summaries = summarise(rows, names)

    def figures(chosen: Sequence[int], error: str, of: Callable[[Summary, int], Any]) -> dict:
        return {
            rows[i].label: {
                m: dict(zip(("mean", error), map(_finite, of(s, i)), strict=True))
                for m, s in summaries.items()
            }
            for i in chosen
        }

    others = [i for i in range(len(rows)) if i != reference]
    metrics = {
        **facts,
        "examples": len(names),
        "pictures": len(set(names)),
        "rows": figures(range(len(rows)), "error", Summary.mean),
        "differences to": rows[reference].label,
        "differences": figures(others, "interval", lambda s, i: s.difference(i, reference)),
        "left out": {m: s.left_out for m, s in summaries.items() if s.left_out},
    }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2).encode())

    text, columns = io.StringIO(), list(rows[0].values)
    writer = csv.writer(text)
    writer.writerow(["method", "picture", *columns])
    for row in rows:
        for i, example in enumerate(examples):
            writer.writerow([row.label, example, *(f"{row.values[m][i]:.6g}" for m in columns)])
    # Names that are no UTF-8 keep their bytes.
    write_whole(folder / "per_image.csv", text.getvalue().encode("utf-8", "surrogateescape"))

    png = encoded(sheet)
    write_whole(folder / "sheet.png", png)
    means, differences = _tables(rows, names, reference)
    shown = {"Means over pictures": means}
    if len(rows) > 1:
        shown["Differences, paired by picture"] = differences
    protocol = f"{facts['protocol']}. {_left_out(rows, names)}"
    write_whole(
        folder / "report.html", page("Evaluation", protocol, shown, figures={"Pictures": png})
    )


def _finite(value: float) -> float | None:
    # JSON knows neither NaN nor infinity.
    return value if math.isfinite(value) else None
