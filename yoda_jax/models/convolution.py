"""Convolutions that are as fast on a CPU as on an accelerator; equal to the plain ones."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Initializer = Callable[..., Array]
Convolution = Callable[[Array, Array], Array]
Padding = Literal["zeros", "reflect"]


# PyTorch's default for convolutions and dense layers: uniform within 1 / sqrt(fan in).
uniform_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def orthogonal_init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Orthogonal weights of a kernel seen as (out, in * kh * kw), gain 1, as the SR3 reference."""
    return nn.initializers.orthogonal(column_axis=-1)(key, shape, dtype)


def _by_platform(cpu: Convolution, default: Convolution) -> Convolution:
    """Two ways to compute one function, chosen when compiled, backwards too; has no jvp."""

    def pull(way: Convolution) -> Callable[..., tuple[Array, Array]]:
        return lambda dy, x, kernel: jax.vjp(way, x, kernel)[1](dy)

    def backward(inputs: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
        return jax.lax.platform_dependent(dy, *inputs, cpu=pull(cpu), default=pull(default))

    @jax.custom_vjp
    def chosen(x: Array, kernel: Array) -> Array:
        return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)

    chosen.defvjp(lambda x, kernel: (chosen(x, kernel), (x, kernel)), backward)
    return chosen


def _convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C D"], edge: int, stride: int = 1
) -> Float[Array, "B _ _ D"]:
    """Convolution of x padded by `edge` zeros on every side."""
    edges = (edge, edge)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (edges, edges), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _neighbours(v: Float[Array, "B H W C"], axis: int, starts: range, length: int) -> Array:
    """v seen from each start on, zero outside, side by side as channels: (pixels, channels)."""
    views = []
    for start in starts:
        edges = [(0, 0, 0)] * 4
        edges[axis] = (-start, start + length - v.shape[axis], 0)
        views.append(jax.lax.pad(v, jnp.zeros((), v.dtype), edges))
    views = jnp.concatenate(views, axis=-1)
    return views.reshape(-1, views.shape[-1])


def _kernel_gradient(x: Array, kernel: Array, dy: Array, edge: int) -> Array:
    """dK[a, b] = sum over q of x[q + (0, b)] dy[q - (a, 0)]: one product of matrices."""
    size, _, before, after = kernel.shape
    columns = _neighbours(x, 2, range(-edge, size - edge), dy.shape[2])
    rows = _neighbours(dy, 1, range(edge, edge - size, -1), x.shape[1])
    gradient = jnp.matmul(columns.T, rows, preferred_element_type=jnp.float32)
    gradient = gradient.reshape(size, before, size, after).transpose(2, 0, 1, 3)
    return gradient.astype(kernel.dtype)


def _products(x: Array, kernel: Array, edge: int) -> Array:
    """The convolution as a product of matrices for each of the kernel's taps."""
    size = kernel.shape[0]
    height, width = (n + 2 * edge - size + 1 for n in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    return sum(
        jnp.tensordot(padded[:, a : a + height, b : b + width], kernel[a, b], 1)
        for a in range(size)
        for b in range(size)
    )


def _cpu_forward(x: Array, kernel: Array, edge: int) -> Array:
    """Few pixels of many channels are mostly kernel, which XLA's convolution copies about."""
    batch, height, width, before = x.shape
    if batch * height * width <= 512 and before >= 512:
        return _products(x, kernel, edge)
    if edge or kernel.shape[0] == 1:
        return _convolve(x, kernel, edge)
    # Where nothing is padded XLA's convolution is three times as slow: one row is, and cut off.
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((0, 1), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out[:, :-1]


def _cpu_backward(edge: int, inputs: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    (dx,) = jax.vjp(lambda x: _cpu_forward(x, kernel, edge), x)[1](dy)
    return dx, _kernel_gradient(x, kernel, dy, edge)


_cpu_convolve = jax.custom_vjp(_cpu_forward, nondiff_argnums=(2,))
_cpu_convolve.defvjp(
    lambda x, kernel, edge: (_cpu_forward(x, kernel, edge), (x, kernel)), _cpu_backward
)


# A kernel's gradient is a convolution whose window is the picture: XLA is slow at it on a CPU.
_padded, _valid = (
    _by_platform(
        cpu=lambda x, kernel, pad=pad: _cpu_convolve(x, kernel, pad * (kernel.shape[0] // 2)),
        default=lambda x, kernel, pad=pad: _convolve(x, kernel, pad * (kernel.shape[0] // 2)),
    )
    for pad in (1, 0)
)


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C D"], padding: Padding = "zeros"
) -> Float[Array, "B _ _ D"]:
    """Convolution of x with K // 2 zeros, or its own mirror image, around it."""
    if padding == "zeros":
        return _padded(x, kernel)
    return _valid(_mirrored(x, kernel.shape[0] // 2), kernel)


def _mirrored(x: Float[Array, "B H W C"], edge: int) -> Float[Array, "B _ _ C"]:
    edges = (edge, edge)
    return jnp.pad(x, ((0, 0), edges, edges, (0, 0)), mode="reflect") if edge else x


def _by_phases(
    x: Float[Array, "B H W C"], folded: Float[Array, "2 2 C s s D"]
) -> Float[Array, "B _ _ D"]:
    """out[s i + a, s j + b] = sum over u, v of x[i + u + A, j + v + B] folded[u, v, :, a, b].

    A is 0 in the later half of the phases a and -1 in the former, B likewise: each of the s x s
    phases of a result s times as large sees 2x2 inputs.
    """
    batch, height, width, before = x.shape
    s, after = folded.shape[3], folded.shape[5]
    out = _cpu_convolve(x, folded.reshape(2, 2, before, s * s * after), 1)
    out = out.reshape(batch, height + 1, width + 1, s, s, after)
    halves = [(i, slice(i * s // 2, (i + 1) * s // 2)) for i in (0, 1)]  # former, later phases
    # Four slices, since each one's gradient is as large as out.
    rows = [
        jnp.concatenate([out[:, A : height + A, B : width + B, a, b] for B, b in halves], axis=4)
        for A, a in halves
    ]
    phases = jnp.concatenate(rows, axis=3).transpose(0, 1, 3, 2, 4, 5)
    return phases.reshape(batch, s * height, s * width, after)


def _upsample_plainly(x: Array, kernel: Array) -> Array:
    return _convolve(x.repeat(2, axis=1).repeat(2, axis=2), kernel, 1)


def _upsample_by_phases(x: Array, kernel: Array) -> Array:
    """Every phase sees 2x2 inputs through a kernel folded once: 4/9 of the work."""
    fold = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    return _by_phases(x, jnp.einsum("auk,bvl,klio->uviabo", fold, fold, kernel))


# A 3x3 convolution of x doubled to its nearest neighbours.
upsample_convolve = _by_platform(cpu=_upsample_by_phases, default=_upsample_plainly)


def _transposed_plainly(x: Array, kernel: Array) -> Array:
    s = kernel.shape[0] // 2
    edges = (2 * s - 1 - s // 2,) * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        (edges, edges),
        lhs_dilation=(s, s),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _transposed_by_phases(x: Array, kernel: Array) -> Array:
    """out[o] = sum over i of x[i] kernel[o + s / 2 - s i], taken apart by o modulo s."""
    s = kernel.shape[0] // 2
    taps = [[(a + s // 2) % s + s * (1 - u) for a in range(s)] for u in (0, 1)]
    taps = jnp.array(taps)
    folded = kernel[taps][:, :, taps]  # u a v b C D
    return _by_phases(x, folded.transpose(0, 2, 4, 1, 3, 5))


# PyTorch's transposed convolution of kernel 2 s, stride s and padding s / 2, for even s.
transposed_convolve = _by_platform(cpu=_transposed_by_phases, default=_transposed_plainly)


class Conv(nn.Module):
    """A square convolution padded by kernel // 2 zeros, or mirrored pixels, on every side.

    With `upsample` the input is first doubled to its nearest neighbours (a 3x3 kernel only).
    """

    features: int
    kernel: int
    stride: int
    bias: bool
    kernel_init: Initializer
    dtype: jnp.dtype | None
    upsample: bool
    padding: Padding

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ features"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.upsample:
            out = upsample_convolve(x, kernel)
        elif self.stride == 1:
            out = convolve(x, kernel, self.padding)
        else:
            edge = self.kernel // 2
            if self.padding == "reflect":
                x, edge = _mirrored(x, edge), 0
            out = _convolve(x, kernel, edge, self.stride)
        return out if bias is None else out + bias[None, None, None]


def conv(
    features: int,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = True,
    init: Initializer = orthogonal_init,
    dtype: jnp.dtype | None = None,
    name: str | None = None,
    upsample: bool = False,
    padding: Padding = "zeros",
) -> Conv:
    """A `Conv` with the defaults of SR3."""
    return Conv(features, kernel, stride, bias, init, dtype, upsample, padding, name=name)
