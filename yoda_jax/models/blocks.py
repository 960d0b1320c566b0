"""Layers that the networks share."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from yoda_jax.arrays import Array
from yoda_jax.models.cpu_convolution import convolution

Features = Float[Array, "B H W C"]
Initializer = nn.initializers.Initializer
Precision = Literal["default", "high", "highest"]
# What the backward pass computes anew instead of keeping it: nothing, or whole blocks.
Remat = Literal["none", "blocks"]

# PyTorch's default for convolutions and dense layers: uniform within 1 / sqrt(fan in).
uniform_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Orthogonal weights of a kernel seen as (in * kh * kw, out), as the SR3 reference draws them.
orthogonal_init = nn.initializers.orthogonal(column_axis=-1)


@dataclasses.dataclass(frozen=True)
class Layers:
    """The convolutions and dense layers of a network, alike in initialisation and arithmetic.

    precision: that of jax.lax.Precision in which float32 is multiplied; "default" is JAX's.
    """

    init: Initializer
    dtype: DTypeLike
    precision: Precision
    remat: Remat = "none"

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What flax's layers and JAX's products are told of the precision."""
        return {"precision": None if self.precision == "default" else self.precision}

    def conv(
        self, features: int, name: str | None = None, kernel: int = 3, **options: Any
    ) -> nn.Conv:
        """A square convolution, padded by kernel // 2 zeros on every side as PyTorch's networks."""
        shared = {"kernel_init": self.init, "dtype": self.dtype, "padding": kernel // 2}
        shared |= {"conv_general_dilated": convolution, **self.arithmetic}
        return nn.Conv(features, (kernel, kernel), name=name, **shared | options)

    def transposed(self, features: int, scale: int, name: str | None = None) -> nn.Conv:
        """PyTorch's ConvTranspose2d of kernel 2 scale, stride scale and padding scale / 2."""
        edge = 2 * scale - 1 - scale // 2

        def turned(x: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
            return convolution(x, kernel[::-1, ::-1], *arguments, **options)

        options = {"input_dilation": scale, "conv_general_dilated": turned}
        return self.conv(features, name, kernel=2 * scale, padding=edge, **options)

    def block(self, module: type[nn.Module], static: tuple[int, ...] = ()) -> type[nn.Module]:
        """The class of a block, under `remat`; `static` counts its arguments, with self as 0."""
        if self.remat == "none":
            return module
        return nn.remat(module, static_argnums=static)

    def dense(self, features: int, name: str) -> nn.Dense:
        shared = {"kernel_init": self.init, "dtype": self.dtype, **self.arithmetic}
        return nn.Dense(features, name=name, **shared)

    def embed(
        self,
        level: Float[Array, "B"],
        features: int,
        last_exponent: float,
        activation: Callable[[Array], Array],
    ) -> Float[Array, "B D"]:
        """Two dense layers over sines and cosines of the level, called in a network's __call__."""
        waves = sinusoidal(level, features, last_exponent).astype(self.dtype)
        h = self.dense(4 * features, "level_dense1")(waves)
        return self.dense(features, "level_dense2")(activation(h))


class GroupNorm(nn.Module):
    """Group normalisation with one multiply-add per value; statistics in float32.

    Mean and variance are folded into a scale and a shift of each channel, which reads the input
    once less than flax's layer; XLA does not find that by itself on a CPU. Values are measured from
    the mean of their first row, so a mean that is large against the deviation costs no digits.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Features) -> Features:
        batch, _, _, channels = x.shape
        gain = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        by_group = (batch, self.groups, channels // self.groups)

        def group_mean(v: Features) -> Float[Array, "B C"]:
            mean = v.mean((1, 2)).reshape(by_group).mean(-1)
            return jnp.repeat(mean, channels // self.groups, axis=-1)

        # The result, and with it every derivative, does not depend on what is taken off. The row is
        # a share 1 / H of the values, so mean^2 is at most H times the variance.
        first = jax.lax.stop_gradient(group_mean(x[:, :1].astype(jnp.float32)))
        values = x.astype(jnp.float32) - first[:, None, None]
        mean = group_mean(values)
        variance = jnp.maximum(group_mean(values**2) - mean**2, 0.0)
        scale = gain[None] * jax.lax.rsqrt(variance + self.epsilon)
        shift = bias[None] - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


def sinusoidal(values: Float[Array, "B"], dim: int, last_exponent: float) -> Float[Array, "B D"]:
    """cat(sin, cos) of values times dim/2 frequencies from 1 down to 1e-4 ** (last exponent).

    SR3 divides the exponents by dim/2 (the last frequency stays above 1e-4), SRDiff by dim/2 - 1.
    """
    half = dim // 2
    exponents = jnp.arange(half, dtype=jnp.float32) * (last_exponent / (half - 1))
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


def doubled(x: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
    """Every pixel twice along both axes: H = 2 h, W = 2 w."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
