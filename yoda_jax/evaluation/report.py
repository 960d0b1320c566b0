"""What an evaluation leaves behind: a table, figures a picture, a sheet of pictures, one page."""

import base64
import csv
import dataclasses
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

_MARGIN, _HEADER = 4, 14  # pixels between the sheet's pictures and above its columns
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
    """One method on all pictures: its label, and a list of values (one a picture) per metric."""

    label: str
    values: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float:
        """Mean over the pictures of finite value; infinite if there is none."""
        values = self._finite(metric)
        return float(values.mean()) if len(values) else math.inf

    def error(self, metric: str) -> float:
        """Standard error of the mean; NaN for a single picture."""
        values = self._finite(metric)
        if len(values) < 2:
            return math.nan
        return float(values.std(ddof=1) / math.sqrt(len(values)))

    def _finite(self, metric: str) -> np.ndarray:
        """A picture equal to the true one has an infinite PSNR, which no mean can hold."""
        values = np.asarray(self.values[metric], np.float64)
        return values[~np.isposinf(values)]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, mean ± standard error over pictures; columns are aligned for a terminal."""
    metrics = [m for m in _UNITS if all(m in row.values for row in rows)]
    cells = [["", *(_UNITS[m][0] for m in metrics)]]
    for row in rows:
        figures = [
            f"{row.mean(m):.{_UNITS[m][1]}f} ± {row.error(m):.{_UNITS[m][1]}f}" for m in metrics
        ]
        cells.append([row.label, *figures])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def write(
    folder: Path, rows: Sequence[Row], names: Sequence[str], protocol: str, sheet: Image.Image
) -> None:
    """Writes metrics.json, per_image.csv, sheet.png and report.html, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "protocol": protocol,
        "pictures": len(names),
        "rows": {
            row.label: {
                m: {"mean": _finite(row.mean(m)), "error": _finite(row.error(m))}
                for m in row.values
            }
            for row in rows
        },
    }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2).encode())

    text = io.StringIO()
    writer = csv.writer(text)
    columns = list(rows[0].values)
    writer.writerow(["method", "picture", *columns])
    for row in rows:
        for i, name in enumerate(names):
            writer.writerow([row.label, name, *(f"{row.values[m][i]:.6g}" for m in columns)])
    # Names that are no UTF-8 keep their bytes.
    write_whole(folder / "per_image.csv", text.getvalue().encode("utf-8", "surrogateescape"))

    png = io.BytesIO()
    sheet.save(png, "PNG")
    write_whole(folder / "sheet.png", png.getvalue())
    page = (
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>"
        "<style>body{font:15px sans-serif;margin:2em}pre{font-size:13px}</style>"
        f"<h1>Evaluation</h1><p>{html.escape(protocol)}</p><pre>{html.escape(table(rows))}</pre>"
        f"<img src='data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}'>"
    )
    write_whole(folder / "report.html", page.encode())


def picture_sheet(
    columns: Mapping[str, Sequence[UInt8[np.ndarray, "h w c"]]], size: int
) -> Image.Image:
    """Pictures in labelled columns, a picture a row, scaled into size x size by copying pixels."""
    rows = len(next(iter(columns.values())))
    step = size + _MARGIN
    sheet = Image.new(
        "RGB", (_MARGIN + step * len(columns), _HEADER + _MARGIN + step * rows), "lightgrey"
    )
    draw = ImageDraw.Draw(sheet)
    for i, (label, pictures) in enumerate(columns.items()):
        left = _MARGIN + step * i
        draw.text((left, 1), label, fill="black")
        for j, picture in enumerate(pictures):
            image = Image.fromarray(np.repeat(picture, 3 // picture.shape[-1], axis=-1))
            factor = size / max(image.size)
            fitted = tuple(max(round(n * factor), 1) for n in image.size)
            image = image.resize(fitted, Image.Resampling.NEAREST)
            sheet.paste(image, (left, _HEADER + step * j))
    return sheet


def picture_grid(rows: Mapping[str, UInt8[np.ndarray, "B h w c"]]) -> UInt8[np.ndarray, "H W 3"]:
    """LR, attention, sample and HR of a batch {lr, attention, sr, hr} as one picture."""
    size = max(rows["hr"].shape[1], 64)
    columns = {"LR": rows["lr"], "attention": rows["attention"], "SR": rows["sr"], "HR": rows["hr"]}
    return np.asarray(picture_sheet(columns, size))


def _finite(value: float) -> float | None:
    # JSON knows neither NaN nor infinity.
    return value if math.isfinite(value) else None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
