"""What a study leaves behind: a table of all arms, and curves over training steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from yoda_jax.errors import UserError
from yoda_jax.evaluation.intervals import by_picture, interval
from yoda_jax.evaluation.report import figure, markdown

BICUBIC = "bicubic"
_UNITS = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "colour_shift": "colour shift"}
_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "colour_shift": 4}
_DRAWN = ("colour_shift", "psnr", "lpips")

# Of each arm's label, by training and sampling: names and values of the evaluated examples, those
# of bicubic up-sampling, the lower bound, and the settings of training and sampling.
Results = Mapping[str, Sequence[Sequence[Mapping]]]


def figures(results: Results, metric: str) -> dict[str, Float[np.ndarray, "trainings pictures"]]:
    """A metric of bicubic up-sampling and of every arm, means over samplings and examples.

    Raises UserError if the arms were evaluated on different examples.
    """
    first = next(iter(results.values()))
    names = first[0][0]["names"]
    if any(r["names"] != names for arm in results.values() for row in arm for r in row):
        raise UserError("--config.study.arms must keep the evaluated pictures; they differ.")
    values = [[row[0][BICUBIC][metric] for row in first]]
    for arm in results.values():
        values.append([np.mean([r["values"][metric] for r in row], axis=0) for row in arm])
    return dict(zip((BICUBIC, *results), by_picture(np.array(values), names), strict=True))


def table(results: Results, reference: str) -> str:
    """A Markdown table: means, and paired differences to the arm called `reference`, if any."""
    values = {metric: figures(results, metric) for metric in (*_UNITS, "diffused")}
    head = ["", "diffused", "l", *_UNITS.values()]
    head += [f"{name} - {reference}" for name in _UNITS.values()] if reference else []
    lines = [head]
    for label, diffused in values["diffused"].items():
        bounds = [row[0]["lower_bound"] for row in results.get(label, ())]
        bound = "-" if None in bounds or not bounds else f"{np.mean(bounds):.3f}"
        cells = [label, f"{diffused.mean():.3f}", bound]
        cells += [f"{values[m][label].mean():.{_DIGITS[m]}f}" for m in _UNITS]
        for m in _UNITS if reference else ():
            pair = interval(values[m][label] - values[m][reference])
            cells.append("" if label == reference else figure(*pair, _DIGITS[m], "+"))
        lines.append(cells)
    return markdown(lines)


def curve(label: str) -> str:
    """The curve that an arm belongs to: its label up to the first comma."""
    return label.partition(",")[0]


def curves(results: Results) -> Figure:
    """Colour shift, PSNR and LPIPS over training steps, a column a batch size.

    A line joins the means of the arms of a curve; a dot is a training, the dashed line bicubic
    up-sampling.
    """
    lines: dict[int, dict[str, dict[int, str]]] = {}  # batch size -> curve -> steps -> label
    for label, arm in results.items():
        train = arm[0][0]["settings"][0]["train"]
        column = lines.setdefault(train["batch_size"], {})
        column.setdefault(curve(label), {})[train["steps"]] = label
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(map(curve, results)))}
    figure = Figure(figsize=(1.5 + 3 * len(lines), 8), layout="constrained")
    axes = figure.subplots(len(_DRAWN), len(lines), sharex="col", sharey="row", squeeze=False)
    legend = {}
    for metric, row in zip(_DRAWN, axes, strict=True):
        values = figures(results, metric)
        row[0].set_ylabel(_UNITS[metric])
        row[0].set_yscale("log" if metric == "colour_shift" else "linear")
        for (size, column), ax in zip(sorted(lines.items()), row, strict=True):
            legend[BICUBIC] = ax.axhline(values[BICUBIC].mean(), color="grey", linestyle="--")
            ax.set_xscale("log")
            for name, labels in column.items():
                steps = sorted(labels)
                trainings = np.array([values[labels[step]].mean(axis=1) for step in steps])
                (legend[name],) = ax.plot(steps, trainings.mean(axis=1), color=colours[name])
                ax.plot(steps, trainings, ".", color=colours[name], markersize=4)
            ticks = sorted({step for labels in column.values() for step in labels})
            ax.set_xticks(ticks, [f"{step:,}" for step in ticks])
            ax.minorticks_off()
            if ax in axes[0]:
                ax.set_title(f"batch {size}")
            if ax in axes[-1]:
                ax.set_xlabel("training steps")
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=3)
    return figure
