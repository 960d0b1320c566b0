"""Vision transformers as DINO and DINOv2 release them, for the attention of their class token.

Sources: facebookresearch/dino vision_transformer.py, facebookresearch/dinov2, and Hugging Face's
Dinov2Model; Dosovitskiy et al. 2021.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float

from yoda_jax.arrays import Array

Tokens = Float[Array, "B N C"]
Heads = Float[Array, "B N heads d"]


class VisionTransformer(nn.Module):
    """A pre-norm vision transformer with a class token and learned position embeddings.

    grid: side of the square grid that the position embeddings were trained on. Other inputs use
    them bicubically interpolated, each release in its way: DINO and DINOv2 ask for `offset` = 0.1
    of a patch more than there is, Hugging Face's port for 0; DINOv2 with registers for `antialias`.
    layer_scale: DINOv2's learned scale of each residual branch. registers: learned tokens without a
    position between the class token and the patches (Darcet et al. 2024).
    """

    patch: int
    features: int
    depth: int
    heads: int
    grid: int
    layer_scale: bool = False
    offset: float = 0.1
    antialias: bool = False
    registers: int = 0

    def setup(self) -> None:
        self.patch_embedding = nn.Dense(self.features)
        normal = nn.initializers.truncated_normal(0.02)
        self.class_token = self.param("class_token", normal, (self.features,))
        if self.registers:
            shape = (self.registers, self.features)
            self.register_tokens = self.param("register_tokens", normal, shape)
        # The class token's first, then row by row.
        self.positions = self.param("positions", normal, (1 + self.grid**2, self.features))
        self.blocks = [
            _Block(self.features, self.heads, self.layer_scale) for _ in range(self.depth)
        ]
        self.norm = nn.LayerNorm(1e-6)

    def __call__(self, pictures: Float[Array, "B H W 3"]) -> Tokens:
        """The normalised tokens of the last block: class token, registers, then row by row.

        H and W are multiples of the patch; pictures have the mean 0 and deviation 1 of ImageNet.
        """
        tokens = self._embed(pictures)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def class_attention(self, pictures: Float[Array, "B H W 3"]) -> Float[Array, "B heads h w"]:
        """What the class token of the last block attends to, a map a head on the grid of patches.

        The rows of the softmax without the class token itself and the registers: a map sums to at
        most 1. Equal to get_last_selfattention(x)[:, :, 0, 1:] of the public DINO code.
        """
        rows, columns = (size // self.patch for size in pictures.shape[1:3])
        tokens = self._embed(pictures)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        attention = self.blocks[-1].first_attention(tokens)
        patches = attention[..., 1 + self.registers :]
        return rearrange(patches, "b n (h w) -> b n h w", h=rows, w=columns)

    def _embed(self, pictures: Float[Array, "B H W 3"]) -> Tokens:
        p = self.patch
        patches = rearrange(pictures, "b (h p) (w q) c -> b h w (p q c)", p=p, q=p)
        batch, rows, columns, _ = patches.shape
        # A picture of another shape is interpolated even where the number of patches is the same.
        positions = self.positions[1:].reshape(self.grid, self.grid, self.features)
        if (rows, columns) != (self.grid, self.grid) and self.antialias:
            positions = jax.image.resize(positions, (rows, columns, self.features), "cubic")
        elif (rows, columns) != (self.grid, self.grid):
            vertical, horizontal = (
                interpolation_matrix(self.grid, size, self.offset) for size in (rows, columns)
            )
            positions = jnp.einsum("yi,xj,ijc->yxc", vertical, horizontal, positions)
        tokens = (self.patch_embedding(patches) + positions[None]).reshape(batch, -1, self.features)
        first = (self.class_token + self.positions[0])[None]
        if self.registers:
            first = jnp.concatenate([first, self.register_tokens])
        first = jnp.broadcast_to(first, (batch, *first.shape))
        return jnp.concatenate([first, tokens], axis=1)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with an mlp of four times the width."""

    features: int
    heads: int
    layer_scale: bool

    def setup(self) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(1e-6), nn.LayerNorm(1e-6)
        self.query, self.key = nn.Dense(self.features), nn.Dense(self.features)
        self.value, self.out = nn.Dense(self.features), nn.Dense(self.features)
        self.mlp1, self.mlp2 = nn.Dense(4 * self.features), nn.Dense(self.features)
        self.scale1, self.scale2 = self._scale("scale1"), self._scale("scale2")

    def _scale(self, name: str) -> Float[Array, "1 1 C"] | float:
        if not self.layer_scale:
            return 1.0
        return self.param(name, nn.initializers.ones, (self.features,))[None, None]

    def __call__(self, x: Tokens) -> Tokens:
        y = self.norm1(x)
        q, k, v = (self._split(layer(y)) for layer in (self.query, self.key, self.value))
        plain = partial(jax.nn.dot_product_attention, implementation="xla")
        y = jax.lax.platform_dependent(q, k, v, cpu=_attend, default=plain)
        x = x + self.scale1 * self.out(rearrange(y, "b k n d -> b k (n d)"))
        y = nn.gelu(self.mlp1(self.norm2(x)), approximate=False)
        return x + self.scale2 * self.mlp2(y)

    def first_attention(self, x: Tokens) -> Float[Array, "B heads N"]:
        """What the first token attends to."""
        y = self.norm1(x)
        q, k = self._split(self.query(y[:, :1])), self._split(self.key(y))
        return jax.nn.softmax(jnp.einsum("bnd,bknd->bnk", q[:, 0] * q.shape[-1] ** -0.5, k))

    def _split(self, x: Tokens) -> Heads:
        return rearrange(x, "b k (n d) -> b k n d", n=self.heads)


def _attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """softmax(q k^T / sqrt(d)) v, a head of a picture at a time, whose weights fit a CPU's caches.

    Divided last, when d values are left of every N.
    """

    def attend(head: Sequence[Float[Array, "N d"]]) -> Float[Array, "N d"]:
        q, k, v = head
        logits = q * q.shape[-1] ** -0.5 @ k.T
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        return weights @ v / weights.sum(-1, keepdims=True)

    heads = [rearrange(x, "b k n d -> (b n) k d") for x in (q, k, v)]
    return rearrange(jax.lax.map(attend, heads), "(b n) k d -> b k n d", n=q.shape[2])


def interpolation_matrix(old: int, new: int, offset: float) -> Float[np.ndarray, "new old"]:
    """The matrix of PyTorch's bicubic interpolation along one axis, without antialiasing.

    Places are (i + .5) / scale - .5 with scale = (new + offset) / old; the border repeats, and the
    kernel is that of Keys 1981 with a = -.75.
    """
    a = -0.75
    places = (np.arange(new) + 0.5) * old / (new + offset) - 0.5
    first = np.floor(places).astype(int) - 1
    matrix = np.zeros((new, old), np.float32)
    for tap in range(4):
        x = np.abs(places - (first + tap))
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weights = np.where(x <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weights)
    return matrix
