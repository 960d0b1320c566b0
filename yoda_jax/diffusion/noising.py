"""Between clean target, noise and diffused state."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from yoda_jax.arrays import Array
from yoda_jax.diffusion.schedule import NoiseSchedule


def _per_picture(values: Float[Array, "*B"]) -> Float[Array, "*B 1 1 1"]:
    return values[..., None, None, None]


def add_noise(
    y0: Float[Array, "*B H W C"],
    eps: Float[Array, "*B H W C"],
    signal: Float[Array, "*B"],
    noise: Float[Array, "*B"],
) -> Float[Array, "*B H W C"]:
    """z = sqrt(g) y0 + sqrt(1 - g) eps with signal = sqrt(g), noise = sqrt(1 - g), one per picture.

    Source: SR3, arXiv 2104.07636, equation 5.
    """
    return _per_picture(signal) * y0 + _per_picture(noise) * eps


def predict_y0(
    z: Float[Array, "*B H W C"],
    eps: Float[Array, "*B H W C"],
    signal: Float[Array, "*B"],
    noise: Float[Array, "*B"],
) -> Float[Array, "*B H W C"]:
    """The clean target (z - sqrt(1 - g) eps) / sqrt(g) that z and eps imply, clipped to [-1, 1].

    Source: SR3, equation 6; the public implementations of SR3 and SRDiff always clip.
    """
    return jnp.clip((z - _per_picture(noise) * eps) / _per_picture(signal), -1.0, 1.0)


def posterior_step(
    schedule: NoiseSchedule,
    z: Float[Array, "*B H W C"],
    eps: Float[Array, "*B H W C"],
    fresh_noise: Float[Array, "*B H W C"],
    t: Int[Array, "*B"],
) -> Float[Array, "*B H W C"]:
    """One step t -> t-1 of the base method: z_{t-1} drawn from q(z_{t-1} | z_t, y0(z_t, eps)).

    t is within 1..T, one per picture; fresh_noise is standard normal and has no effect at t = 1.
    Source: DDPM equations 6, 7 and 15, with the posterior's variance, as SR3 and SRDiff sample.
    """
    y0 = predict_y0(z, eps, schedule.signal[t], schedule.noise[t])
    mean = _per_picture(schedule.posterior_y0[t]) * y0 + _per_picture(schedule.posterior_z[t]) * z
    return mean + _per_picture(schedule.posterior_std[t]) * fresh_noise


def blend(
    mask: Bool[Array, "*B H W 1"],
    inside: Float[Array, "*B H W C"],
    outside: Float[Array, "*B H W C"],
) -> Float[Array, "*B H W C"]:
    """M * inside + (1 - M) * outside, chosen and not multiplied: a NaN outside stays outside."""
    return jnp.where(mask, inside, outside)
