"""Samples of any number type to the 8 bits of a picture that is shown."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

# Of linear or gamma-coded shares of white, to those of sRGB.
Transfer = Callable[[Float[np.ndarray, "H W C"]], Float[np.ndarray, "H W C"]]
# White of integers by their bytes, where no sample exceeds it: few writers fill the type, and what
# a camera's 12 bits leave of 16 would be shown black.
_WHITES = {1: (), 2: (255, 1023, 4095), 4: (255, 65535)}


class Unusable(Exception):
    """Why a picture cannot be decoded; completes "... because"."""


def white(samples: Shaped[np.ndarray, "..."], bits: int = 0) -> float:
    """The sample that is white.

    Of integers the largest number of `bits`, where these are declared (above 0), or of the fewest
    among 8, 10 and 12 bits (8 and 16 of a type of 32) that hold all samples, else of their type;
    of floats 1. Raises `Unusable` where samples lie below black or above white.
    """
    low, high = float(samples.min()), float(samples.max())
    if samples.dtype.kind == "f":
        # Half a level outside [0, 1] still rounds to a level inside.
        if not (low >= -0.5 / 255 and high <= 1 + 0.5 / 255):
            raise Unusable(f"its float samples span {low:g}..{high:g} instead of 0..1")
        return 1.0
    if low < 0:
        raise Unusable(f"its integer samples are negative (down to {low:g})")
    if samples.dtype.kind == "i" and samples.dtype.itemsize != 4:
        raise Unusable(f"its {samples.dtype} samples have no defined white")
    spans = (2**bits - 1,) if bits else _WHITES.get(samples.dtype.itemsize, ())
    return float(next((w for w in spans if high <= w), np.iinfo(samples.dtype).max))


def to_levels(unit: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Shares of white to the nearest level 0..255."""
    return np.floor(unit * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def to_image(
    samples: Shaped[np.ndarray, "H W C"],
    alpha: str = "",
    bits: int = 0,
    inverted: bool = False,
    transfer: Transfer | None = None,
) -> Image.Image:
    """A picture in L or RGB of samples of any type.

    alpha: "A" where the last channel is alpha, "a" where the colours are multiplied by it, else "".
    inverted: black is white. transfer: to the sRGB curve, from another one.
    """
    colours = samples.shape[2] - bool(alpha)
    colour, opacity = samples[..., :colours], samples[..., colours:]
    span = white(colour, bits)
    unit = np.clip(colour / np.float32(span), 0, 1)
    unit = 1 - unit if inverted else unit
    levels = to_levels(unit if transfer is None else transfer(unit))
    if alpha:
        span = span if opacity.max() <= span else white(opacity, 8 * samples.dtype.itemsize)
        levels = np.dstack([levels, to_levels(np.clip(opacity / np.float32(span), 0, 1))])
    mode = ("L" if colours == 1 else "RGB") + alpha
    image = Image.frombytes(mode, levels.shape[1::-1], levels.tobytes())
    return image.convert(mode.upper())
