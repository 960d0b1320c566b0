"""One step of a chain, from t to t - 1, by several solvers of the reverse process.

Each takes the state z_t, the clean target y0 that the network's estimate implies, fresh standard
normal noise and what is known of the step before, and gives z_{t-1}. t is within 1..T of the
schedule, which may be re-spaced: so t - 1 is any earlier time of the trained chain.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from yoda_jax.arrays import Levels, Masks, Pictures, Times
from yoda_jax.diffusion.noising import per_picture
from yoda_jax.diffusion.schedule import NoiseSchedule

StepperName = Literal["ddpm", "ddpm_beta", "ddim", "multistep"]


class History(NamedTuple):
    """The clean target estimated at t + 1, and where the pixel was diffused then."""

    y0: Pictures
    known: Masks


# Of (schedule, z, y0, fresh noise, t, history).
Stepper = Callable[..., Pictures]


def ddpm(
    schedule: NoiseSchedule,
    z: Pictures,
    y0: Pictures,
    fresh: Pictures,
    t: Times,
    history: History | None = None,
) -> Pictures:
    """z_{t-1} drawn from q(z_{t-1} | z_t, y0), with that posterior's variance; no noise at t = 1.

    Source: DDPM, equations 6 and 7, as SR3 and SRDiff sample.
    """
    return _ancestral(schedule, z, y0, t) + _times(schedule.posterior_std[t], fresh)


def ddpm_beta(
    schedule: NoiseSchedule,
    z: Pictures,
    y0: Pictures,
    fresh: Pictures,
    t: Times,
    history: History | None = None,
) -> Pictures:
    """As `ddpm`, with the variance beta_t. Source: DDPM, section 3.2."""
    return _ancestral(schedule, z, y0, t) + _times(schedule.beta_std[t], fresh)


def ddim(
    schedule: NoiseSchedule,
    z: Pictures,
    y0: Pictures,
    fresh: Pictures,
    t: Times,
    history: History | None = None,
    *,
    eta: float = 0.0,
) -> Pictures:
    """Deterministic with eta 0, `ddpm` with eta 1. Source: DDIM, arXiv 2010.02502, equation 12."""
    deviation = eta * schedule.posterior_std[t]
    eps = (z - _times(schedule.signal[t], y0)) / per_picture(schedule.noise[t])
    rest = jnp.sqrt(jnp.maximum(schedule.noise[t - 1] ** 2 - deviation**2, 0.0))
    clean = _times(schedule.signal[t - 1], y0)
    return clean + _times(rest, eps) + _times(deviation, fresh)


def multistep(
    schedule: NoiseSchedule, z: Pictures, y0: Pictures, fresh: Pictures, t: Times, history: History
) -> Pictures:
    """The second-order solver of two steps, on y0; a first-order step where no other is known.

    z_{t-1} = n'/n z + (s' - n' s/n) D, with s, n and s', n' signal and noise at t and t - 1, and
    D = y0 + h / (2 h_before) (y0 - y0_before), h the step in log(s/n). The last step, to clean, is
    of first order. Source: DPM-Solver++(2M), arXiv 2211.01095, algorithm 2.
    """
    trend = _times(schedule.extrapolation[t], y0 - history.y0)
    extrapolated = y0 + jnp.where(history.known, trend, 0.0)
    decay = schedule.noise[t - 1] / schedule.noise[t]
    gain = schedule.signal[t - 1] - decay * schedule.signal[t]
    return _times(decay, z) + _times(gain, extrapolated)


def stepper(name: StepperName, eta: float = 0.0) -> Stepper:
    """The solver of a name; eta is ddim's alone."""
    return partial(ddim, eta=eta) if name == "ddim" else _STEPPERS[name]


_STEPPERS: dict[str, Stepper] = {"ddpm": ddpm, "ddpm_beta": ddpm_beta, "multistep": multistep}


def _ancestral(schedule: NoiseSchedule, z: Pictures, y0: Pictures, t: Times) -> Pictures:
    return _times(schedule.posterior_y0[t], y0) + _times(schedule.posterior_z[t], z)


def _times(values: Levels, pictures: Pictures) -> Pictures:
    return per_picture(values) * pictures
