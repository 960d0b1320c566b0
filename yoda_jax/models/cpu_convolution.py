"""Convolutions that XLA computes fast on a CPU; elsewhere, and in value, the plain ones.

Without them a CPU takes as many times as long (jax 0.10.2, one core of an AMD EPYC with AVX-512,
medians of paired rounds; SR3 is `--net small` of tests/bench/step.py, SRDiff srdiff_small.py's):
`_product`, the kernel's gradient: training steps of SR3 3.33, of SRDiff 3.86.
`_scattered`, that of a transposed convolution: training steps of SRDiff 2.04.
`_cut`, where nothing is padded as after mirrored borders: SRDiff trains 1.19, samples 2.03.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from yoda_jax.arrays import Array

Image = Float[Array, "B H W C"]
Kernel = Float[Array, "K L C D"]
Edges = Sequence[tuple[int, int]]


def convolution(
    x: Image,
    kernel: Kernel,
    strides: tuple[int, int],
    padding: Edges | Literal["VALID"],
    **options: Any,
) -> Float[Array, "B _ _ D"]:
    """jax.lax.conv_general_dilated with derivatives of every kind, fast on a CPU.

    For flax's nn.Conv and its field `conv_general_dilated`, without groups and dilated kernels; a
    dilation s of the input is for kernels of 2 s, with the padding of `Layers.transposed`.
    """
    options |= {"window_strides": strides, "padding": padding}
    plain, precision = partial(jax.lax.conv_general_dilated, **options), options.get("precision")
    if max(strides) > 1:
        return plain(x, kernel)
    edges = ((0, 0), (0, 0)) if padding == "VALID" else padding
    forward, product = plain, partial(_product, edges, precision)
    if max(options.get("lhs_dilation", (1, 1))) > 1:
        product = partial(_scattered, precision)
    elif padding == "VALID":
        forward = partial(jax.lax.platform_dependent, cpu=partial(_cut, plain), default=plain)
    run = jax.custom_jvp(forward)
    run.defjvps(
        lambda dx, _, x, kernel: run(dx, kernel),
        lambda dk, _, x, kernel: jax.lax.platform_dependent(x, dk, cpu=product, default=plain),
    )
    return run(x, kernel)


def _cut(plain: Any, x: Array, kernel: Array) -> Array:
    """The convolution with a row padded, which is cut off again."""
    return plain(x, kernel, padding=((0, 1), (0, 0)))[:, :-1]


def _product(edges: Edges, precision: Any, x: Image, kernel: Kernel) -> Float[Array, "B _ _ D"]:
    """The convolution as one product of matrices; so is its transpose, the kernel's gradient.

    out[i, j] = sum over a of (sum over b of x[i + a, j + b] K[a, b]), the inner sum for all a.
    """
    rows, columns, before, after = kernel.shape
    height, width = (x.shape[i + 1] + sum(edges[i]) - kernel.shape[i] + 1 for i in range(2))
    seen = jnp.concatenate([_seen(x, 2, b - edges[1][0], width) for b in range(columns)], axis=-1)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(columns * before, rows * after)
    # Of two axes, which XLA need not copy into the order that it wants, transposed neither.
    inner = jnp.matmul(seen.reshape(-1, columns * before), matrix, precision=precision)
    inner = jnp.split(inner.reshape(*seen.shape[:3], rows * after), rows, axis=-1)
    return sum(_seen(v, 1, a - edges[0][0], height) for a, v in enumerate(inner))


def _scattered(precision: Any, x: Image, kernel: Kernel) -> Float[Array, "B _ _ D"]:
    """The convolution of x dilated by s = K / 2: a pixel i adds the kernel to the output from s i.

    One product of matrices for the four quarters of the kernel, each of which fills the output.
    """
    batch, height, width, before = x.shape
    s = kernel.shape[0] // 2
    matrix = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(before, -1)
    out = jnp.matmul(x.reshape(-1, before), matrix, precision=precision)
    quarters = "(b h w) (u p v q d) -> u v b (h p) (w q) d"
    out = rearrange(out, quarters, b=batch, h=height, u=2, v=2, p=s, q=s)
    starts = s // 2, s // 2 - s
    return sum(
        _seen(_seen(out[u, v], 1, starts[u], s * height), 2, starts[v], s * width)
        for u in (0, 1)
        for v in (0, 1)
    )


def _seen(v: Image, axis: int, start: int, length: int) -> Float[Array, "B h w C"]:
    """v along an axis from `start` on, zero outside of it."""
    edges = [(0, 0, 0)] * 4
    edges[axis] = (-start, start + length - v.shape[axis], 0)
    return jax.lax.pad(v, jnp.zeros((), v.dtype), edges)
