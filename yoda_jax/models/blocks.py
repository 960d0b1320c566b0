"""Layers that the networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class GroupNorm(nn.Module):
    """Group normalisation with one multiply-add per value; statistics in float32.

    Equal to flax's, but mean and variance are folded into a scale and a shift a channel, which
    reads the input once less; the compiler of XLA on a CPU does not find that by itself.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        batch, _, _, channels = x.shape
        gain = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        values = x.astype(jnp.float32)
        by_group = (batch, self.groups, channels // self.groups)

        def group_mean(v: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
            mean = v.mean((1, 2)).reshape(by_group).mean(-1)
            return jnp.repeat(mean, channels // self.groups, axis=-1)

        mean = group_mean(values)
        variance = jnp.maximum(group_mean(values**2) - mean**2, 0.0)
        scale = gain[None] * jax.lax.rsqrt(variance + self.epsilon)
        shift = bias[None] - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


def sinusoidal(
    values: Float[Array, "B"], dim: int, last_frequency_exponent: float
) -> Float[Array, "B dim"]:
    """cat(sin, cos) of values times dim/2 frequencies from 1 down to 1e-4 ** (last exponent).

    SR3 divides the exponents by dim/2 (the last frequency stays above 1e-4), SRDiff by dim/2 - 1.
    """
    half = dim // 2
    exponents = jnp.arange(half, dtype=jnp.float32) * (last_frequency_exponent / (half - 1))
    angles = values.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(1e4) * exponents)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def mish(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """x tanh(log(1 + exp x)), with one exponential: tanh(log(1 + e)) = n / (n + 2), n = e (e + 2).

    Source: Misra 2019. In float32: above 10 it is x to the last bit, while n squared, which the
    gradient is divided by, would leave nothing of a small one.
    """
    values = x.astype(jnp.float32)
    e = jnp.exp(jnp.minimum(values, 10))
    n = e * (e + 2)
    return (values * (n / (n + 2))).astype(x.dtype)
