"""Bicubic degradation and its counterpart, after the two border rules of the field.

The kernel is Keys' cubic with a = -0.5, widened by the scale when shrinking (antialiasing).
Border "pil" is Pillow's (SR3 reference): the kernel is cut off and renormalised at the border, and
each pass, horizontal first, is rounded to 8 bits. Border "matlab" is that of MATLAB's imresize
(SRDiff reference): the border is mirrored; passes, vertical first, keep the number type of their
input, so pictures of 8 bits are rounded after each and floats never.
"""

from functools import lru_cache
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from yoda_jax.errors import UserError

Border = Literal["pil", "matlab"]

# Pillow's 8-bit resampling works with weights in 22-bit fixed point.
_PIL_WEIGHT_UNIT = 2.0**-22


def cubic(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Cubic convolution kernel, a = -1/2 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def resize_matrix(size_in: int, size_out: int, border: Border) -> Float[np.ndarray, "out in"]:
    """W in out = W @ in, bicubic resizing along one axis: W[i, j] ~ cubic((j + 1/2 - c_i) / s).

    c_i = (i + 1/2) size_in / size_out is the centre of output pixel i in the input and
    s = max(size_in / size_out, 1). Rows sum to 1. The array is float64 and read-only.

    Raises `UserError` on an unknown border.
    """
    ratio = size_in / size_out
    width = max(ratio, 1.0)
    centre = ((np.arange(size_out) + 0.5) * ratio)[:, None]
    reach = int(np.ceil(2 * width)) + 1
    taps = np.floor(centre).astype(int) + np.arange(-reach, reach + 1)
    weights = cubic((taps + 0.5 - centre) / width)
    if border == "pil":
        weights[(taps < 0) | (taps >= size_in)] = 0
        taps = np.clip(taps, 0, size_in - 1)
    elif border in ("matlab", "srdiff"):
        taps %= 2 * size_in
        taps = np.minimum(taps, 2 * size_in - 1 - taps)
    else:
        raise UserError(f"the bicubic border must be pil, matlab or srdiff, found {border!r}.")
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], taps), weights)
    matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.setflags(write=False)
    return matrix


def downsample(
    hr: UInt8[np.ndarray, "H W 3"], scale: int, border: Border
) -> UInt8[np.ndarray, "h w 3"]:
    """The LR picture of `hr`: antialiased bicubic, h = H / scale and w = W / scale.

    "pil" is Pillow's own resize; "matlab" is `imresize(hr, 1/scale)` of the SRDiff reference.
    Raises `UserError` where H or W is not divisible by the scale.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise UserError(
            f"a picture of {height} x {width} cannot be reduced by scale {scale}: crop its height "
            "and width to multiples of the scale."
        )
    if border == "pil":
        return resize_photo(hr, (height // scale, width // scale))
    rows = resize_matrix(height, height // scale, border)
    columns = resize_matrix(width, width // scale, border)
    lr = _levels(np.tensordot(rows, hr.astype(np.float64), axes=(1, 0)))
    return _levels(np.einsum("qw,hwc->hqc", columns, lr, optimize=True)).astype(np.uint8)


def _levels(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The nearest of 0..255; halves go to the even level, as in the SRDiff reference (numpy)."""
    return np.clip(np.rint(x), 0, 255)


def resize_photo(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Pillow's antialiased bicubic resize to `size` = (height, width)."""
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fit(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The shorter side resized to `size`, then the centre square (SR3 reference, prepare_data.py).

    Sizes and offsets round as torchvision's Resize and CenterCrop do.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resize_photo(image, (height, width))[top : top + size, left : left + size]


def upsample(
    lr: UInt8[Array, "B h w 3"] | Float[Array, "B h w 3"], scale: int, border: Border
) -> Float[Array, "B H W 3"]:
    """lr_up in [-1, 1]: levels 0..255 resized by the scale, then x / 127.5 - 1; can be jitted.

    "pil" rounds and clips each pass to 8-bit levels; "matlab" stays float and may overshoot;
    "srdiff" is "matlab" with x / 128 - 1, 0.4 % darker, as the public SRDiff was trained.
    """
    height, width = lr.shape[1:3]
    rows = resize_matrix(height, height * scale, border)
    columns = resize_matrix(width, width * scale, border)
    x = lr.astype(jnp.float32)
    if border == "pil":
        x = _pil_pass("qw,bhwc->bhqc", columns, x)
        x = _pil_pass("ph,bhwc->bpwc", rows, x)
    else:
        x = _matmul("ph,bhwc->bpwc", rows, x)
        x = _matmul("qw,bhwc->bhqc", columns, x)
    return x / (128 if border == "srdiff" else 127.5) - 1


def to_uint8(picture: Float[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
    """A picture in [-1, 1] as 8-bit levels: clipped, and rounded to the nearest."""
    return jnp.rint(jnp.clip(127.5 * (picture + 1.0), 0.0, 255.0)).astype(jnp.uint8)


def _matmul(axes: str, matrix: np.ndarray, x: Float[Array, "B h w 3"]) -> Float[Array, "B h w 3"]:
    return jnp.einsum(axes, matrix.astype(np.float32), x, precision="highest")


def _pil_pass(axes: str, matrix: np.ndarray, x: Float[Array, "B h w 3"]) -> Float[Array, "B h w 3"]:
    """One pass of Pillow's resize: fixed-point weights, halves rounded up, clipped to 8 bits."""
    weights = np.round(matrix / _PIL_WEIGHT_UNIT) * _PIL_WEIGHT_UNIT
    return jnp.clip(jnp.floor(_matmul(axes, weights, x) + 0.5), 0, 255)
