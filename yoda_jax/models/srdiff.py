"""The SRDiff UNet: predicts the noise of a residual from it, the step and the encoder's features.

Layer by layer the network of the public PyTorch implementation (github.com/LeiaLi/SRDiff,
models/diffsr_modules.py), without its optional parts that no published network has.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from yoda_jax.models.blocks import mish, sinusoidal
from yoda_jax.models.convolution import conv, transposed_convolve, uniform_init
from yoda_jax.models.rrdb import DOUBLINGS, RRDBNet


class TransposedConv(nn.Module):
    """PyTorch's ConvTranspose2d of kernel 2 s, stride s and padding s / 2."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W features"]:
        side = 2 * self.stride
        kernel = self.param("kernel", uniform_init, (side, side, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return transposed_convolve(x, kernel) + bias[None, None, None]


class ResidualBlock(nn.Module):
    """Two convolutions over mirrored borders, each followed by Mish; no normalisation."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], embedding: Float[Array, "B E"]
    ) -> Float[Array, "B H W features"]:
        dense = nn.Dense(self.features, kernel_init=uniform_init, dtype=self.dtype, name="level")
        h = mish(_conv(self.features, self.dtype, "conv1")(x))
        h = h + dense(mish(embedding))[:, None, None]
        h = mish(_conv(self.features, self.dtype, "conv2")(h))
        if x.shape[-1] != self.features:
            x = conv(self.features, kernel=1, init=uniform_init, dtype=self.dtype, name="shortcut")(
                x
            )
        return h + x


class SRDiffUNet(nn.Module):
    """UNet on the residual, with an RRDB encoder's features added at the first level.

    The HR size must be divisible by 2 ** (len(multipliers) - 1), and encoder_blocks + 1 by 3: every
    third of the encoder's maps is used. The encoder is trained before and stays as it is.
    """

    diffuses, continuous_level = True, False
    # Parameters that training leaves alone, and the network whose training made them.
    parts: ClassVar[Mapping[str, str]] = {"encoder": "rrdb"}

    features: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    encoder_features: int = 64
    encoder_blocks: int = 17
    scale: int = 4
    dtype: jnp.dtype = jnp.float32

    @property
    def reduction(self) -> int:
        """By which height and width are reduced at the last level."""
        return 2 ** (len(self.multipliers) - 1)

    def problem(self) -> str | None:
        """What is wrong with the hyper-parameters."""
        if not self.multipliers:
            return "model.multipliers must name at least one level, found ()."
        if self.features % 2 or self.features < 4:
            return f"model.features={self.features} must be even and at least 4."
        if self.scale not in DOUBLINGS:
            return f"data.scale={self.scale} must be 4 or 8, as its encoder's."
        if self.encoder_blocks and (self.encoder_blocks + 1) % 3:  # 0: not yet known
            return (
                f"model.encoder has {self.encoder_blocks} blocks, expected one less than a "
                "multiple of three, since every third map is used; train one with 8 or 17."
            )
        return None

    def setup(self) -> None:
        self.encoder = RRDBNet(self.encoder_features, self.encoder_blocks, self.scale, self.dtype)
        self.projection = TransposedConv(self.features, self.scale, self.dtype)

    def condition(
        self, lr: Float[Array, "B h w 3"], lr_up: Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W features"]:
        """The encoder's features at HR size, once for all steps."""
        del lr_up
        if self.is_initializing():  # the layers that make the encoder's picture as well
            self.encoder(lr)
        maps = jax.lax.stop_gradient(self.encoder.features_of(lr))
        return self.projection(jnp.concatenate(maps[2::3], axis=-1))

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B H W 3"],
        level: Float[Array, "B"],
        condition: Float[Array, "B H W features"],
        train: bool = False,
    ) -> Float[Array, "B H W 3"]:
        """The noise in z; level is the step in 0..T-1. Returns float32."""
        del train  # nothing here differs in training
        embedding = self._embed(level)
        widths = [self.features * m for m in self.multipliers]
        last = len(widths) - 1

        def blocks(x: Array, width: int, name: str) -> Array:
            for j in range(2):
                x = ResidualBlock(width, self.dtype, name=f"{name}_block{j}")(x, embedding)
            return x

        x, skips = z.astype(self.dtype), []
        for i, width in enumerate(widths):
            x = blocks(x, width, f"down{i}")
            if i == 0:
                x = x + condition
            skips.append(x)
            if i < last:
                x = _conv(width, self.dtype, f"down{i}_conv", stride=2)(x)
        x = blocks(x, widths[-1], "mid")
        for i in reversed(range(1, len(widths))):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = blocks(x, widths[i - 1], f"up{i}")
            x = TransposedConv(widths[i - 1], 2, self.dtype, name=f"up{i}_conv")(x)
        x = mish(_conv(self.features, self.dtype, "final_block")(x))
        out = conv(3, kernel=1, init=uniform_init, dtype=self.dtype, name="final_conv")(x)
        return out.astype(jnp.float32)

    def _embed(self, level: Float[Array, "B"]) -> Float[Array, "B features"]:
        waves = sinusoidal(level, self.features, 1.0).astype(self.dtype)
        dense1 = nn.Dense(
            4 * self.features, kernel_init=uniform_init, dtype=self.dtype, name="level_dense1"
        )
        dense2 = nn.Dense(
            self.features, kernel_init=uniform_init, dtype=self.dtype, name="level_dense2"
        )
        return dense2(mish(dense1(waves)))


def _conv(features: int, dtype: jnp.dtype, name: str, stride: int = 1) -> nn.Module:
    return conv(
        features, stride=stride, init=uniform_init, dtype=dtype, name=name, padding="reflect"
    )
