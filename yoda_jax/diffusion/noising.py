"""Between clean target, noise and diffused state."""

import jax.numpy as jnp
from jaxtyping import Float

from yoda_jax.arrays import Array, Levels, Masks, Pictures


def per_picture(values: Levels) -> Float[Array, "*B 1 1 1"]:
    """One value a picture, to be multiplied with pictures."""
    return values[..., None, None, None]


def add_noise(y0: Pictures, eps: Pictures, signal: Levels, noise: Levels) -> Pictures:
    """z = sqrt(g) y0 + sqrt(1 - g) eps with signal = sqrt(g), noise = sqrt(1 - g).

    Source: SR3, arXiv 2104.07636, equation 5.
    """
    return per_picture(signal) * y0 + per_picture(noise) * eps


def predict_y0(z: Pictures, eps: Pictures, signal: Levels, noise: Levels) -> Pictures:
    """The clean target (z - sqrt(1 - g) eps) / sqrt(g) that z and eps imply, clipped to [-1, 1].

    Source: SR3, equation 6; the public implementations of SR3 and SRDiff always clip.
    """
    return jnp.clip((z - per_picture(noise) * eps) / per_picture(signal), -1.0, 1.0)


def blend(mask: Masks, inside: Pictures, outside: Pictures) -> Pictures:
    """M * inside + (1 - M) * outside, chosen and not multiplied: a NaN outside stays outside."""
    return jnp.where(mask, inside, outside)
