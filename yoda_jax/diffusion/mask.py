"""The area mask: which pixels are diffused at a time."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def area_mask(
    attention: Float[Array, "*B H W 1"],
    time: Float[Array, "*B"],
    lower_bound: float | Float[Array, ""],
) -> Bool[Array, "*B H W 1"]:
    """M(t) = [A + l >= t/T].

    attention is A in [0, 1]; time is t/T in [0, 1], one per picture, so the numbers of steps of
    training and sampling may differ; lower_bound is l; below 1/T some pixels may never be
    diffused and stay the up-sampled LR picture. Masks nest: the mask of a larger time
    lies within that of a smaller one. Source: YODA, arXiv 2308.07977, with the comparison made
    against relative time.
    """
    time = jnp.asarray(time, jnp.float32)[..., None, None, None]
    return attention.astype(jnp.float32) + lower_bound >= time


def mask_fractions(
    attention: Float[Array, "*B H W 1"], lower_bound: float | Float[Array, ""], num_steps: int
) -> Float[Array, "*B T"]:
    """The share of pixels within M(t) for t = 1..T, falling with t."""
    values = attention.astype(jnp.float32) + lower_bound
    values = jnp.sort(values.reshape(*values.shape[:-3], -1))
    times = jnp.arange(1, num_steps + 1) / num_steps
    below = jnp.vectorize(lambda v: jnp.searchsorted(v, times), signature="(n)->(t)")(values)
    return 1.0 - below.astype(jnp.float32) / values.shape[-1]


def diffused_fraction(
    attention: Float[Array, "*B H W 1"], lower_bound: float | Float[Array, ""]
) -> Float[Array, "*B"]:
    """E[min(1, max(0, A + l))], the share of pixel-steps that are diffused, one per picture."""
    return jnp.clip(attention.astype(jnp.float32) + lower_bound, 0.0, 1.0).mean((-3, -2, -1))
