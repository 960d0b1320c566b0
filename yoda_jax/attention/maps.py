"""From per-head maps to A: stored form, aggregation over heads, resizing and normalisation.

Runs on the host in the input threads, hence NumPy and Pillow only.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from yoda_jax.errors import UserError

# A map whose range is at most this part of its largest magnitude counts as constant: one step of
# the stored 8 bits (1/255) is rounding, two are content.
CONSTANT = 1.5 / 255
AGGREGATES = ("max", "mean", "flat")  # or the index of a head
_POWERS = 1 / 64, 64.0  # among which one is looked for


class Reading(NamedTuple):
    """How A is read from the heads of a picture.

    aggregate and normalise_heads as `aggregate` takes them. A is raised to `power`, which leaves
    its maximum at 1 and changes its shape; a `fraction` above 0 is the mean that it shall have over
    the picture, and each picture gets the power for it, among 1/64 to 64. Zeros stay: a map that
    is zero nearly everywhere has a smaller mean.
    """

    aggregate: str | int = "max"
    normalise_heads: bool = False
    power: float = 1.0
    fraction: float = 0.0


def quantise(
    heads: Float32[np.ndarray, "N h w"],
) -> tuple[UInt8[np.ndarray, "N h w"], Float32[np.ndarray, " N"]]:
    """q = round(255 heads / scale), with each head's maximum as its scale: the stored form.

    `heads` are non-negative. An error is at most scale / 510; a head of zeros has scale 0.
    Raises UserError for values that are negative or not finite: damaged weights make them.
    """
    if not (np.isfinite(heads).all() and (heads >= 0).all()):
        raise UserError(
            "Attention heads must be finite and non-negative, found values that are not: "
            "check the backbone's weights."
        )
    scale = heads.max(axis=(1, 2))
    divisor = np.where(scale > 0, scale, 1).astype(np.float64)
    return np.rint(heads * (255 / divisor)[:, None, None]).astype(np.uint8), scale


def dequantise(
    heads_u8: UInt8[np.ndarray, "N h w"], scale: Float32[np.ndarray, " N"]
) -> Float32[np.ndarray, "N h w"]:
    """heads = scale q / 255, the inverse of `quantise` but for rounding."""
    return heads_u8 * (scale / np.float32(255))[:, None, None]


def aggregate(
    heads: Float32[np.ndarray, "N h w"], how: str | int, normalise_heads: bool = False
) -> Float32[np.ndarray, "h w"]:
    """One map of N heads: their "max", their "mean", or the head of index `how`.

    An index may be written as a string of digits, as it comes from a command line. "flat" is "max"
    here, and no more than its mean over the picture is kept of it by `attention_map`. With
    `normalise_heads` each head is min-max normalised before, where a constant head, which says
    nothing about places, becomes zeros: ones would drown all others in the maximum.
    Raises UserError for another word or an index out of range.
    """
    if isinstance(how, str) and how.isdecimal():
        how = int(how)
    if how not in AGGREGATES and how not in range(len(heads)):
        raise UserError(
            f"Attention heads are aggregated by {', '.join(map(repr, AGGREGATES))} or an index "
            f"from 0 to {len(heads) - 1}, since the map has {len(heads)} heads, found {how!r}: "
            "choose one of these."
        )
    if normalise_heads:
        heads = np.stack([np.zeros_like(h) if _is_constant(h) else normalise(h) for h in heads])
    if how == "mean":
        return heads.mean(axis=0)
    return heads.max(axis=0) if how in AGGREGATES else heads[int(how)]


def normalise(attention: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """(A - min A) / (max A - min A), in [0,1]; a constant map becomes all ones.

    Constant means a range of at most CONSTANT times the largest magnitude; ones are the plain base
    method.
    """
    if _is_constant(attention):
        return np.ones_like(attention)
    low, high = attention.min(), attention.max()
    return (attention - low) / (high - low)


def resize(
    attention: Float32[np.ndarray, "h w"],
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None = None,
) -> Float32[np.ndarray, "H W"]:
    """Bicubic interpolation to `size` = (H, W), or to the rectangle `box` of that size alone.

    `box` is (top, left, height, width) in pixels of `size`; the result equals that part of the
    whole. Bicubic, since a grid of 28 x 28 grows many times over and the mask's rim is a level line
    of the result: a bilinear surface has creases at every cell, and its level lines have corners
    there. Clipped to the map's own range, since the cubic kernel overshoots beside a peak. Pillow's
    kernel (a = -1/2) widens itself when it shrinks a map.
    """
    top, left, height, width = box or (0, 0, *size)
    rows, columns = attention.shape[0] / size[0], attention.shape[1] / size[1]
    source = (left * columns, top * rows, (left + width) * columns, (top + height) * rows)
    image = Image.fromarray(attention).resize((width, height), Image.Resampling.BICUBIC, source)
    return np.clip(np.asarray(image), attention.min(), attention.max())


def attention_map(
    heads_u8: UInt8[np.ndarray, "N h w"],
    scale: Float32[np.ndarray, " N"],
    size: tuple[int, int],
    reading: Reading,
    box: tuple[int, int, int, int] | None = None,
) -> UInt8[np.ndarray, "H W 1"]:
    """A of a picture of `size` = (H, W), or of its part `box`, in 8 bits (255 = 1.0).

    Normalised and shaped on the grid and then resized, so that a part of a picture has the values
    it has in the whole. A constant map is 255 everywhere (or the fraction asked for), one of zeros
    0. "flat" replaces A by its mean over the picture: as much diffusion, but equally long
    everywhere. `box` as in `resize`; raises UserError as `aggregate`.
    """
    if heads_u8.any():
        how, normalise_heads = reading.aggregate, reading.normalise_heads
        attention = normalise(aggregate(dequantise(heads_u8, scale), how, normalise_heads))
        attention = _shaped(attention, reading)
    else:
        attention = np.zeros(heads_u8.shape[1:], np.float32)
    if reading.aggregate == "flat":
        attention = np.full_like(attention, attention.mean())
    return np.rint(255 * resize(attention, size, box)).astype(np.uint8)[..., None]


def _shaped(attention: Float32[np.ndarray, "h w"], reading: Reading) -> Float32[np.ndarray, "h w"]:
    """A to a power: the one given, or by bisection that which gives A the mean asked for."""
    if not reading.fraction:
        return attention if reading.power == 1 else attention ** np.float32(reading.power)
    if attention.min() == 1:  # of a constant map
        return np.full_like(attention, reading.fraction)
    low, high = np.log(_POWERS)
    for _ in range(20):  # the mean falls with the power
        middle = (low + high) / 2
        above = (attention ** np.float32(np.exp(middle))).mean() > reading.fraction
        low, high = (middle, high) if above else (low, middle)
    return attention ** np.float32(np.exp(high))


def _is_constant(attention: Float32[np.ndarray, "H W"]) -> bool:
    low, high = attention.min(), attention.max()
    return bool(high - low <= CONSTANT * max(abs(low), abs(high)))
