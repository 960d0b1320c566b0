"""What an evaluation leaves behind: a table, figures a picture, one page with its sheet."""

import base64
import csv
import dataclasses
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from PIL import Image

from yoda_jax.evaluation.intervals import by_picture, interval
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

    @property
    def means(self) -> Float[np.ndarray, " rows"]:
        """Mean over pictures of each row; nan where nothing is finite."""
        return self.values.mean(1)

    @property
    def errors(self) -> Float[np.ndarray, " rows"]:
        """Standard errors of the means; nan for a single picture."""
        count = self.values.shape[1]
        if count < 2:
            return np.full(len(self.values), np.nan)
        return self.values.std(1, ddof=1) / math.sqrt(count)

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
    summaries = {m: s for m, s in summarise(rows, names).items() if m in _UNITS}
    metrics = [m for m in _UNITS if m in summaries]
    head = [_UNITS[m][0] for m in metrics]
    lines = [["", *head]]
    for i, row in enumerate(rows):
        lines.append([row.label])
        for m in metrics:
            lines[-1].append(figure(summaries[m].means[i], summaries[m].errors[i], _UNITS[m][1]))
    text = markdown(lines)
    if len(rows) > 1:
        lines = [[f"minus {rows[reference].label}", *head]]
        for i, row in enumerate(rows):
            if i != reference:
                pairs = (summaries[m].difference(i, reference) for m in metrics)
                digits = (_UNITS[m][1] for m in metrics)
                cells = (figure(*pair, d, "+") for pair, d in zip(pairs, digits, strict=True))
                lines.append([row.label, *cells])
        text += f"\n\n{markdown(lines)}"
    if out := [f"{_UNITS[m][0]} {s.left_out}" for m, s in summaries.items() if s.left_out]:
        text += f"\n\nExamples of infinite value, left out of all rows: {', '.join(out)}."
    return text


def figure(value: float, error: float, digits: int, sign: str = "") -> str:
    """A figure with its error, if there is one, to so many digits."""
    text = f"{value:{sign}.{digits}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first line is its head, in columns of equal width."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    padded.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(padded)


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
    metrics = {
        **facts,
        "examples": len(names),
        "pictures": len(set(names)),
        "rows": {
            row.label: {
                m: {"mean": _finite(s.means[i]), "error": _finite(s.errors[i])}
                for m, s in summaries.items()
            }
            for i, row in enumerate(rows)
        },
        "differences to": rows[reference].label,
        "differences": {
            row.label: {
                m: {"mean": _finite(mean), "interval": _finite(half)}
                for m, s in summaries.items()
                for mean, half in [s.difference(i, reference)]
            }
            for i, row in enumerate(rows)
            if i != reference
        },
        "left out": {m: s.left_out for m, s in summaries.items() if s.left_out},
    }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2).encode())

    text = io.StringIO()
    writer = csv.writer(text)
    columns = list(rows[0].values)
    writer.writerow(["method", "picture", *columns])
    for row in rows:
        for i, example in enumerate(examples):
            writer.writerow([row.label, example, *(f"{row.values[m][i]:.6g}" for m in columns)])
    # Names that are no UTF-8 keep their bytes.
    write_whole(folder / "per_image.csv", text.getvalue().encode("utf-8", "surrogateescape"))

    png = encoded(sheet)
    write_whole(folder / "sheet.png", png)
    page = (
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>"
        "<style>body{font:15px sans-serif;margin:2em}pre{font-size:13px}</style>"
        f"<h1>Evaluation</h1><p>{html.escape(facts['protocol'])}</p>"
        f"<pre>{html.escape(table(rows, names, reference))}</pre>"
        f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
    )
    write_whole(folder / "report.html", page.encode())


def _finite(value: float) -> float | None:
    # JSON knows neither NaN nor infinity.
    return value if math.isfinite(value) else None
