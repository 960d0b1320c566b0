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


def diffused_steps(
    attention: Float[Array, "*B H W 1"], lower_bound: float | Float[Array, ""], num_steps: int
) -> Float[Array, "*B H W 1"]:
    """floor(T (A + l)) within 0..T, the number of t in 1..T whose mask holds a pixel."""
    value = attention.astype(jnp.float32) + lower_bound
    steps = jnp.clip(jnp.floor(value * num_steps), 0, num_steps)
    # Where the product is almost whole its rounding decides otherwise than the mask's comparison.
    more = (value >= (steps + 1) / num_steps) & (steps < num_steps)
    fewer = (value < steps / num_steps) & (steps > 0)
    return steps + more - fewer


def diffused_fraction(
    attention: Float[Array, "*B H W 1"], lower_bound: float | Float[Array, ""]
) -> Float[Array, "*B"]:
    """E[min(1, max(0, A + l))], the share of pixel-steps that are diffused, one per picture."""
    return jnp.clip(attention.astype(jnp.float32) + lower_bound, 0.0, 1.0).mean((-3, -2, -1))
