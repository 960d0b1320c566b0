"""Means over pictures of paired figures, and what they leave open."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def by_picture(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Means (..., pictures) of (..., examples): examples of a picture are not independent.

    Examples that are not finite in any row (an infinite PSNR) are left out of all of them; where
    none is left the mean is nan.
    """
    finite = np.isfinite(values.reshape(-1, values.shape[-1])).all(axis=0)
    if not finite.any():
        return np.full((*values.shape[:-1], 1), np.nan)
    _, picture = np.unique(np.asarray(names)[finite], return_inverse=True)
    return np.stack(
        [values[..., finite][..., picture == i].mean(-1) for i in range(picture.max() + 1)], -1
    )


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of pictures' values, by 2,000 draws of pictures; nan of one."""
    if len(values) < 2:
        return math.nan, math.nan
    options = {"n_resamples": 2000, "method": "percentile", "rng": 0}
    found = stats.bootstrap((np.asarray(values, float),), np.mean, **options)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """(mean, half its 95 % interval) of differences (trainings, pictures), both taken as random.

    The variance of the mean is the sum of those of the means of pictures and of trainings; degrees
    of freedom by Welch and Satterthwaite. With one training it holds for that one alone.
    """
    means = [differences.mean(axis=axis) for axis in range(2)]
    terms = [(m.var(ddof=1) / len(m), len(m) - 1) for m in means if len(m) > 1]
    variance = sum(v for v, _ in terms)
    if not variance:
        return float(differences.mean()), 0.0 if terms else math.nan
    freedom = variance**2 / sum(v**2 / n for v, n in terms)
    return float(differences.mean()), float(stats.t.ppf(0.975, freedom) * math.sqrt(variance))
