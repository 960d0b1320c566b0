"""The SR3 UNet: predicts noise from a state, its noise level and the up-sampled picture.

Layer by layer the network of the public PyTorch implementation (github.com/Janspiry/
Image-Super-Resolution-via-Iterative-Refinement, model/sr3_modules/unet.py).
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Float

from yoda_jax.arrays import Array
from yoda_jax.models.blocks import (
    Features,
    GroupNorm,
    Layers,
    Precision,
    Remat,
    doubled,
    orthogonal_init,
)
from yoda_jax.models.cpu_convolution import convolution


class ResnetBlock(nn.Module):
    """Two pre-activated convolutions; the level's embedding is added between them."""

    features: int
    groups: int
    dropout: float
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Features, embedding: Float[Array, "B E"], train: bool
    ) -> Float[Array, "B H W D"]:
        conv, dense = self.layers.conv, self.layers.dense
        h = nn.swish(GroupNorm(self.groups, name="norm1")(x))
        h = conv(self.features, "conv1")(h)
        h = h + dense(self.features, "level")(embedding)[:, None, None]
        h = nn.swish(GroupNorm(self.groups, name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(self.features, "conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, "shortcut", kernel=1)(x)
        return h + x


class SelfAttention(nn.Module):
    """One-headed attention over all positions, added to its input; softmax in float32."""

    groups: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Features) -> Features:
        product = partial(jnp.einsum, **self.layers.arithmetic)
        height, width, channels = x.shape[1:]
        h = GroupNorm(self.groups, name="norm")(x)
        qkv = self.layers.conv(3 * channels, "qkv", kernel=1, use_bias=False)(h)
        q, k, v = rearrange(qkv, "b h w (part c) -> part b (h w) c", part=3)
        scores = product("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / jnp.sqrt(channels), axis=-1).astype(v.dtype)
        h = product("bqk,bkc->bqc", weights, v)
        h = rearrange(h, "b (h w) c -> b h w c", h=height, w=width)
        return self.layers.conv(channels, "out", kernel=1)(h) + x


class Stem(nn.Module):
    """The first convolution over cat(lr_up, z), taken apart: lr_up's part is not in the loop."""

    features: int
    layers: Layers

    def setup(self) -> None:
        self.kernel = self.param("kernel", orthogonal_init, (3, 3, 6, self.features))
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def of_picture(self, lr_up: Float[Array, "B H W 3"]) -> Features:
        bias = self.bias.astype(self.layers.dtype)[None, None, None]
        return self._conv(lr_up, self.kernel[:, :, :3]) + bias

    def of_state(self, z: Float[Array, "B H W 3"]) -> Features:
        return self._conv(z, self.kernel[:, :, 3:])

    def _conv(self, x: Float[Array, "B H W 3"], kernel: Array) -> Features:
        x, kernel = x.astype(self.layers.dtype), kernel.astype(self.layers.dtype)
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **self.layers.arithmetic}
        return convolution(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)


class SR3UNet(nn.Module):
    """UNet with residual blocks, skips from every layer and attention at chosen resolutions.

    Whether a level has attention follows from image_size, the size of training, so the parameters
    do not depend on the picture; the middle always has it. `groups` divide all widths.
    """

    diffuses, continuous_level = True, True
    parts: ClassVar[Mapping[str, str]] = {}

    features: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    image_size: int = 128
    groups: int = 32
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    precision: Precision = "default"
    remat: Remat = "none"

    @property
    def reduction(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    def problem(self) -> str | None:
        if self.features % self.groups:  # else they divide the width of every level
            return f"groups={self.groups} must divide features={self.features}."
        sizes = [self.image_size >> level for level in range(len(self.multipliers))]
        for size in self.attention_resolutions:
            if size not in sizes:
                return (
                    f"attention_resolutions names {size}, but the levels have the sizes "
                    f"{', '.join(map(str, sizes))}; choose among these."
                )
        return None

    def setup(self) -> None:
        self.layers = Layers(orthogonal_init, self.dtype, self.precision, self.remat)
        self.stem = Stem(self.features, self.layers)

    def encode(self, lr: Float[Array, "B h w 3"]) -> Float[Array, "B h w 0"]:
        """Nothing: this network sees lr_up alone."""
        return lr[..., :0]

    def condition(
        self, encoded: Float[Array, "B h w F"], lr_up: Float[Array, "B H W 3"]
    ) -> Features:
        """The stem's share of lr_up, once for all steps."""
        del encoded
        return self.stem.of_picture(lr_up)

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B H W 3"],
        level: Float[Array, "B"],
        condition: Features,
        train: bool = False,
    ) -> Float[Array, "B H W 3"]:
        """The noise in z; level is sqrt(gamma) in (0, 1]. Returns float32."""
        conv, half = self.layers.conv, self.features // 2
        embedding = self.layers.embed(level, self.features, (half - 1) / half, nn.swish)

        resnet_block = self.layers.block(ResnetBlock, static=(3,))
        self_attention = self.layers.block(SelfAttention)

        def block(x: Array, width: int, attention: bool, name: str) -> Array:
            layer = resnet_block(width, self.groups, self.dropout, self.layers, name=name)
            x = layer(x, embedding, train)
            if attention:
                x = self_attention(self.groups, self.layers, name=f"{name}_attention")(x)
            return x

        widths = [self.features * m for m in self.multipliers]
        attends = [self.image_size >> i in self.attention_resolutions for i in range(len(widths))]

        x = self.stem.of_state(z) + condition
        skips = [x]
        for i, width in enumerate(widths):
            for j in range(self.blocks):
                x = block(x, width, attends[i], f"down{i}_block{j}")
                skips.append(x)
            if i < len(widths) - 1:
                x = conv(width, f"down{i}_conv", strides=2)(x)
                skips.append(x)

        x = block(x, widths[-1], True, "mid_block0")
        x = block(x, widths[-1], False, "mid_block1")

        for i in reversed(range(len(widths))):
            for j in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, widths[i], attends[i], f"up{i}_block{j}")
            if i > 0:
                x = conv(widths[i], f"up{i}_conv")(doubled(x))

        x = nn.swish(GroupNorm(self.groups, name="final_norm")(x))
        return conv(3, "final_conv", dtype=jnp.float32)(x)
