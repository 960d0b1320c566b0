"""The RRDB network: residual-in-residual dense blocks, SRDiff's encoder of the LR picture.

Layer by layer that of the public implementations (Wang et al. 2018, ESRGAN; github.com/LeiaLi/
SRDiff, models/diffsr_modules.py), and with `skip` around the bicubic picture, which they do not do.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from yoda_jax.arrays import Array
from yoda_jax.models.blocks import Features, Layers, Precision, Remat, doubled, uniform_init

DOUBLINGS = {4: 2, 8: 3}  # of the picture, by its scale
_RESIDUAL = 0.2  # of every residual branch


class DenseBlock(nn.Module):
    """x + 0.2 times five convolutions, each of which sees x and all results before it."""

    growth: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Features) -> Features:
        seen = x
        for i in range(1, 5):
            layer = self.layers.conv(self.growth, f"conv{i}")
            seen = jnp.concatenate([seen, _leaky(layer(seen))], axis=-1)
        return _RESIDUAL * self.layers.conv(x.shape[-1], "conv5")(seen) + x


class RRDBNet(nn.Module):
    """A 4x or 8x super-resolution network; `features_of` gives what SRDiff conditions on.

    With `skip` it adds to the picture enlarged bicubically, so training begins with that.
    """

    reduction = 1  # pictures may have any size
    diffuses = False
    parts: ClassVar[Mapping[str, str]] = {}

    features: int = 64
    blocks: int = 17
    scale: int = 4
    skip: bool = False
    dtype: DTypeLike = jnp.float32
    precision: Precision = "default"
    remat: Remat = "none"

    def problem(self) -> str | None:
        if self.features % 2:
            return f"features={self.features} must be even."
        if self.scale not in DOUBLINGS:
            return f"scale={self.scale} must be 4 or 8."
        return None

    def setup(self) -> None:
        layers = Layers(uniform_init, self.dtype, self.precision, self.remat)
        block = layers.block(DenseBlock)
        self.conv_first, self.trunk_conv = layers.conv(self.features), layers.conv(self.features)
        self.dense = [
            [block(self.features // 2, layers) for _ in range(3)] for _ in range(self.blocks)
        ]
        self.upconv = [layers.conv(self.features) for _ in range(DOUBLINGS[self.scale])]
        self.hr_conv = layers.conv(self.features)
        self.conv_last = layers.conv(3, dtype=jnp.float32)

    def __call__(self, lr: Float[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        """The picture at `scale` times the size; both in [-1, 1], as float32."""
        x = self.features_of(lr)[-1]
        for layer in self.upconv:
            x = _leaky(layer(doubled(x)))
        out = self.conv_last(_leaky(self.hr_conv(x)))
        if self.skip:
            out = out + (jax.image.resize(lr, out.shape, "cubic") + 1) / 2
        return 2 * jnp.clip(out, 0, 1) - 1

    def features_of(self, lr: Float[Array, "B h w 3"]) -> list[Float[Array, "B h w features"]]:
        """What each block gives, and last the trunk's sum: blocks + 1 maps at LR size."""
        first = self.conv_first(((lr + 1) / 2).astype(self.dtype))
        x, maps = first, []
        for dense in self.dense:
            y = x
            for block in dense:
                y = block(y)
            x = _RESIDUAL * y + x
            maps.append(x)
        return [*maps, first + self.trunk_conv(x)]


def _leaky(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    return nn.leaky_relu(x, 0.2)
