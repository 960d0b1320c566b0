"""Comparison with numbers that another implementation computed."""

import numpy as np
from numpy.typing import ArrayLike

# float32 through a whole network: several times what any processor's instructions round, and less
# than what a wrong layer changes.
TOLERANCE = 1e-5


def assert_near(
    found: ArrayLike, expected: ArrayLike, tolerance: float = TOLERANCE, name: str = ""
) -> None:
    """Every value is within `tolerance` times the largest expected one; shapes are equal.

    Relative to the peak, since the sum of large terms rounds as they do, however small it is.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{name} has {found.shape} instead of {expected.shape}"
    error, peak = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * peak, f"{name} is off by {error:.1e}, the peak is {peak:.1e}"
