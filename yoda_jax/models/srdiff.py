"""The SRDiff UNet: predicts the noise of a residual from it, the step and the encoder's features.

Layer by layer the network of the public PyTorch implementation (github.com/LeiaLi/SRDiff,
models/diffsr_modules.py), without its optional parts that no published network has.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from yoda_jax.arrays import Array
from yoda_jax.models.blocks import Features, Layers, Precision, Remat, mish, uniform_init
from yoda_jax.models.rrdb import DOUBLINGS, RRDBNet


class ResidualBlock(nn.Module):
    """Two convolutions over mirrored borders, each followed by Mish; no normalisation."""

    features: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Features, embedding: Float[Array, "B E"]) -> Float[Array, "B H W D"]:
        conv, dense = self.layers.conv, self.layers.dense
        h = mish(conv(self.features, "conv1", padding="REFLECT")(x))
        h = h + dense(self.features, "level")(mish(embedding))[:, None, None]
        h = mish(conv(self.features, "conv2", padding="REFLECT")(h))
        if x.shape[-1] != self.features:
            x = conv(self.features, "shortcut", kernel=1)(x)
        return h + x


class SRDiffUNet(nn.Module):
    """UNet on the residual, with an RRDB encoder's features added at the first level.

    Every third of the encoder's maps is used. The encoder is trained before and stays as it is.
    """

    diffuses, continuous_level = True, False
    parts: ClassVar[Mapping[str, str]] = {"encoder": "rrdb"}

    features: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    encoder_features: int = 64
    encoder_blocks: int = 17
    encoder_skip: bool = False
    scale: int = 4
    dtype: DTypeLike = jnp.float32
    precision: Precision = "default"
    remat: Remat = "none"

    @property
    def reduction(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    def problem(self) -> str | None:
        if self.features % 2 or self.features < 4:
            return f"features={self.features} must be even and at least 4."
        if self.scale not in DOUBLINGS:
            return f"scale={self.scale} must be 4 or 8, as its encoder's."
        if self.encoder_blocks and (self.encoder_blocks + 1) % 3:  # 0: not yet known
            return (
                f"encoder_blocks={self.encoder_blocks} must be one less than a multiple of three, "
                "since every third map is used; train an encoder of 8 or 17 blocks."
            )
        return None

    def setup(self) -> None:
        self.layers = Layers(uniform_init, self.dtype, self.precision, self.remat)
        size = (self.encoder_features, self.encoder_blocks, self.scale, self.encoder_skip)
        self.encoder = RRDBNet(*size, self.dtype, self.precision)
        self.projection = self.layers.transposed(self.features, self.scale)

    def encode(self, lr: Float[Array, "B h w 3"]) -> Float[Array, "B h w F"]:
        """Every third map of the encoder, at LR size; the most there is to compute but the UNet."""
        if self.is_initializing():  # the layers that make the encoder's picture as well
            self.encoder(lr)
        maps = jax.lax.stop_gradient(self.encoder.features_of(lr))
        return jnp.concatenate(maps[2::3], axis=-1)

    def enlarge(self, lr: Float[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        """The encoder's own picture, in [-1, 1]."""
        return jax.lax.stop_gradient(self.encoder(lr))

    def condition(
        self, encoded: Float[Array, "B h w F"], lr_up: Float[Array, "B H W 3"]
    ) -> Features:
        """The encoder's maps at HR size, with the network's width, once for all steps."""
        del lr_up
        return self.projection(encoded)

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B H W 3"],
        level: Float[Array, "B"],
        condition: Features,
        train: bool = False,
    ) -> Float[Array, "B H W 3"]:
        """The noise in z; level is the step in 0..T-1. Returns float32."""
        del train  # nothing here differs in training
        conv = self.layers.conv
        embedding = self.layers.embed(level, self.features, 1.0, mish)
        widths = [self.features * m for m in self.multipliers]

        residual_block = self.layers.block(ResidualBlock)

        def blocks(x: Array, width: int, name: str) -> Array:
            for j in range(2):
                x = residual_block(width, self.layers, name=f"{name}_block{j}")(x, embedding)
            return x

        x, skips = z.astype(self.dtype), []
        for i, width in enumerate(widths):
            x = blocks(x, width, f"down{i}")
            if i == 0:
                x = x + condition
            skips.append(x)
            if i < len(widths) - 1:
                x = conv(width, f"down{i}_conv", strides=2, padding="REFLECT")(x)
        x = blocks(x, widths[-1], "mid")
        for i in reversed(range(1, len(widths))):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = blocks(x, widths[i - 1], f"up{i}")
            x = self.layers.transposed(widths[i - 1], 2, f"up{i}_conv")(x)
        x = mish(conv(self.features, "final_block", padding="REFLECT")(x))
        return conv(3, "final_conv", kernel=1, dtype=jnp.float32)(x)
