"""The area mask: which pixels are diffused at a time, and the choices that go with it."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from yoda_jax.arrays import Levels, Maps, Masks, Steps, Times
from yoda_jax.diffusion.schedule import NoiseSchedule

LossNorm = Literal["pixels", "area"]


@dataclasses.dataclass(frozen=True)
class Mask:
    """What YODA adds to a base method; None in its place is the base method, without attention.

    lower_bound is l: with at least 1/T every pixel is diffused, below 0 some never are. times is
    how t is drawn in training, loss_norm what the loss is divided by (all pixels or the mask's).
    context is what training shows outside the mask, the noised target ("hr") or the noised base
    ("lr", what sampling shows); network_input "masked" puts zeros there, in sampling too. truncate
    is sampling's alone: that share of a picture's pixels, those that would start first, start
    together with the one behind them.
    """

    lower_bound: float = 0.05
    times: Literal["uniform", "area"] = "area"
    loss_norm: LossNorm = "pixels"
    context: Literal["hr", "lr"] = "hr"
    network_input: Literal["full", "masked"] = "full"
    truncate: float = 0.0


def diffused_steps(attention: Maps, lower_bound: float, num_steps: int) -> Steps:
    """floor(T (A + l)) within 0..T, the number of t in 1..T at which a pixel is diffused.

    A counts in the 8 bits that maps are stored in, A = a / 255. So whole numbers decide, however
    it is compiled: floor((T a + floor(255 T l)) / 255) is the same.
    """
    level = jnp.rint(255.0 * attention.astype(jnp.float32)).astype(jnp.int32)
    # Rounded before, for 100 * .29 is 28.999999999999996.
    bound = math.floor(round(255 * num_steps * lower_bound, 6))
    return jnp.clip(num_steps * level + bound, 0, 255 * num_steps) // 255


def sampling_steps(attention: Maps, mask: Mask, schedule: NoiseSchedule) -> Steps:
    """The number of steps of a chain, re-spaced or not, in which a pixel is diffused.

    Those whose t in training is at most the pixel's `diffused_steps`; with mask.truncate = q no
    more than all but a share q of the picture's pixels have.
    """
    trained = len(schedule.reached) - 1
    steps = schedule.reached[diffused_steps(attention, mask.lower_bound, trained)]
    if not mask.truncate:
        return steps
    axes = (-3, -2, -1)
    most = jnp.quantile(steps, 1 - mask.truncate, axis=axes, method="lower", keepdims=True)
    return jnp.minimum(steps, most.astype(steps.dtype))


def area_mask(steps: Steps, t: Times) -> Masks:
    """M(t) = [A + l >= t/T], as [steps >= t] of the `diffused_steps` of that T, t within 0..T.

    Masks nest: that of a larger t lies within that of a smaller one. Only t/T matters, so training
    and sampling may differ in T. Source: YODA, arXiv 2308.07977, with the comparison made against
    relative time.
    """
    return steps >= jnp.asarray(t)[..., None, None, None]


def diffused_fraction(attention: Maps, lower_bound: float) -> Levels:
    """E[min(1, max(0, A + l))], the share of pixel-steps that are diffused, one per picture."""
    return jnp.clip(attention.astype(jnp.float32) + lower_bound, 0.0, 1.0).mean((-3, -2, -1))
