"""Pictures as a network is shown them: 8-bit levels, values in [-1, 1], and LR at HR size.

Bicubic resizing follows one of three rules. "pil" is Pillow's (SR3 reference): the kernel is cut
off and renormalised at the picture's rim, and each pass, horizontal first, is rounded to 8 bits.
"matlab" is MATLAB's imresize (SRDiff reference): the rim is mirrored; passes, vertical first, keep
the number type of their input, so 8 bits are rounded after each pass and floats never. "srdiff" is
"matlab" with the darker scale that the public SRDiff was trained with.
"""

from functools import lru_cache
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from yoda_jax.arrays import Array

Resampling = Literal["pil", "matlab", "srdiff"]

# Pillow's 8-bit resampling works with weights in 22-bit fixed point.
_PIL_WEIGHT_UNIT = 2.0**-22


def to_unit(picture: UInt8[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
    """8-bit levels as float32 values in [-1, 1]: x / 127.5 - 1."""
    return jnp.asarray(picture, jnp.float32) / 127.5 - 1.0


def to_uint8(picture: Float[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
    """A picture in [-1, 1] as 8-bit levels: clipped, and rounded to the nearest."""
    return jnp.rint(jnp.clip(127.5 * (picture + 1.0), 0.0, 255.0)).astype(jnp.uint8)


def upsample(
    lr: UInt8[Array, "B h w 3"] | Float[Array, "B h w 3"], scale: int, resampling: Resampling
) -> Float[Array, "B H W 3"]:
    """lr_up in [-1, 1]: levels 0..255 resized by the scale, then x / 127.5 - 1; can be jitted.

    "pil" rounds and clips each pass to 8-bit levels; "matlab" stays float and may overshoot;
    "srdiff" is "matlab" with x / 128 - 1, 0.4 % darker, as the public SRDiff was trained.
    """
    height, width = lr.shape[1:3]
    rows = resize_matrix(height, height * scale, resampling)
    columns = resize_matrix(width, width * scale, resampling)
    x = lr.astype(jnp.float32)
    if resampling == "pil":
        x = _pil_pass("qw,bhwc->bhqc", columns, x)
        x = _pil_pass("ph,bhwc->bpwc", rows, x)
    else:
        x = _matmul("ph,bhwc->bpwc", rows, x)
        x = _matmul("qw,bhwc->bhqc", columns, x)
    return x / (128 if resampling == "srdiff" else 127.5) - 1


def cubic(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Cubic convolution kernel, a = -1/2 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=8)  # of the last pictures: large ones have matrices of some 30 MB each
def resize_matrix(
    size_in: int, size_out: int, resampling: Resampling
) -> Float[np.ndarray, "out in"]:
    """W in out = W @ in, bicubic resizing along one axis: W[i, j] ~ cubic((j + 1/2 - c_i) / s).

    c_i = (i + 1/2) size_in / size_out is the centre of output pixel i in the input and
    s = max(size_in / size_out, 1). Rows sum to 1. The array is float64 and read-only.
    """
    ratio = size_in / size_out
    width = max(ratio, 1.0)
    centre = ((np.arange(size_out) + 0.5) * ratio)[:, None]
    reach = int(np.ceil(2 * width)) + 1
    taps = np.floor(centre).astype(int) + np.arange(-reach, reach + 1)
    weights = cubic((taps + 0.5 - centre) / width)
    if resampling == "pil":
        weights[(taps < 0) | (taps >= size_in)] = 0
        taps = np.clip(taps, 0, size_in - 1)
    else:
        taps %= 2 * size_in
        taps = np.minimum(taps, 2 * size_in - 1 - taps)
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], taps), weights)
    matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.setflags(write=False)
    return matrix


def _matmul(axes: str, matrix: np.ndarray, x: Float[Array, "B h w 3"]) -> Float[Array, "B _ _ 3"]:
    return jnp.einsum(axes, matrix.astype(np.float32), x, precision="highest")


def _pil_pass(axes: str, matrix: np.ndarray, x: Float[Array, "B h w 3"]) -> Float[Array, "B _ _ 3"]:
    """One pass of Pillow's resize: fixed-point weights, halves rounded up, clipped to 8 bits."""
    weights = np.round(matrix / _PIL_WEIGHT_UNIT) * _PIL_WEIGHT_UNIT
    return jnp.clip(jnp.floor(_matmul(axes, weights, x) + 0.5), 0, 255)
