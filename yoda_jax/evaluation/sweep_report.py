"""Quality against cost: a line for each way of spending evaluations of the network."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

_DRAWN = {"lpips": "LPIPS", "psnr_y": "PSNR-Y dB", "lpips_inside": "LPIPS where A is high"}


def curves(rows: Mapping[str, Mapping[str, Mapping[str, float]]], order: Sequence[str]) -> Figure:
    """Means over pictures against seconds; rows of a kind and sampler are a line.

    Over the pictures that all rows have.
    """
    shared = sorted(set.intersection(*(set(rows[row]) for row in order)))

    def mean(row: str, figure: str) -> float:
        return float(np.mean([rows[row][picture][figure] for picture in shared]))

    lines: dict[str, list[str]] = {}
    for row in order:
        kind, _, rest = row.partition(": ")
        if rest:
            sampler = rest.removeprefix("as ").partition(",")[0]
            lines.setdefault(f"{kind}, {sampler}", []).append(row)
    figure = Figure(figsize=(5 * len(_DRAWN), 4), layout="constrained")
    for axes, (metric, name) in zip(figure.subplots(1, len(_DRAWN)), _DRAWN.items(), strict=True):
        for label, of_line in lines.items():
            points = sorted((mean(row, "seconds"), mean(row, metric)) for row in of_line)
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(xlabel="seconds a picture", ylabel=name, xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
