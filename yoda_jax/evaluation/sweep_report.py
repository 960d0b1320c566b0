"""Quality against cost: a line for each way of spending evaluations of the network."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

_DRAWN = {"lpips": "LPIPS", "psnr_y": "PSNR-Y dB", "lpips_inside": "LPIPS where A is high"}


def curves(rows: Mapping[str, Mapping[str, Mapping[str, float]]], order: Sequence[str]) -> Figure:
    """Means over pictures against seconds; rows of a kind and sampler are a line."""
    lines: dict[str, list[str]] = {}
    for row in order:
        kind, _, rest = row.partition(": ")
        if rest:
            sampler = rest.removeprefix("as ").partition(",")[0]
            lines.setdefault(f"{kind}, {sampler}", []).append(row)
    figure = Figure(figsize=(5 * len(_DRAWN), 4), layout="constrained")
    for axes, (metric, name) in zip(figure.subplots(1, len(_DRAWN)), _DRAWN.items(), strict=True):
        for label, of_line in lines.items():
            points = sorted((_mean(rows[r], "seconds"), _mean(rows[r], metric)) for r in of_line)
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(xlabel="seconds a picture", ylabel=name, xscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _mean(pictures: Mapping[str, Mapping[str, float]], figure: str) -> float:
    return float(np.mean([figures[figure] for figures in pictures.values()]))
