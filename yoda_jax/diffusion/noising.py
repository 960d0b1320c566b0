"""Between clean target, noise and diffused state."""

import jax.numpy as jnp
from jaxtyping import Float

from yoda_jax.arrays import Array, Levels, Masks, Pictures, Times
from yoda_jax.diffusion.schedule import NoiseSchedule


def _per_picture(values: Levels) -> Float[Array, "*B 1 1 1"]:
    return values[..., None, None, None]


def add_noise(y0: Pictures, eps: Pictures, signal: Levels, noise: Levels) -> Pictures:
    """z = sqrt(g) y0 + sqrt(1 - g) eps with signal = sqrt(g), noise = sqrt(1 - g).

    Source: SR3, arXiv 2104.07636, equation 5.
    """
    return _per_picture(signal) * y0 + _per_picture(noise) * eps


def predict_y0(z: Pictures, eps: Pictures, signal: Levels, noise: Levels) -> Pictures:
    """The clean target (z - sqrt(1 - g) eps) / sqrt(g) that z and eps imply, clipped to [-1, 1].

    Source: SR3, equation 6; the public implementations of SR3 and SRDiff always clip.
    """
    return jnp.clip((z - _per_picture(noise) * eps) / _per_picture(signal), -1.0, 1.0)


def posterior_step(
    schedule: NoiseSchedule, z: Pictures, eps: Pictures, fresh_noise: Pictures, t: Times
) -> Pictures:
    """One step t -> t-1 of the base method: z_{t-1} drawn from q(z_{t-1} | z_t, y0(z_t, eps)).

    t is within 1..T; fresh_noise is standard normal and has no effect at t = 1. Source: DDPM
    equations 6, 7 and 15, with the posterior's variance, as SR3 and SRDiff sample.
    """
    y0 = predict_y0(z, eps, schedule.signal[t], schedule.noise[t])
    mean = _per_picture(schedule.posterior_y0[t]) * y0 + _per_picture(schedule.posterior_z[t]) * z
    return mean + _per_picture(schedule.posterior_std[t]) * fresh_noise


def blend(mask: Masks, inside: Pictures, outside: Pictures) -> Pictures:
    """M * inside + (1 - M) * outside, chosen and not multiplied: a NaN outside stays outside."""
    return jnp.where(mask, inside, outside)
