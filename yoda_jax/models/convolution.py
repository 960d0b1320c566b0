"""Convolutions that are as fast on a CPU as on an accelerator; equal to the plain ones."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Initializer = Callable[..., Array]
Convolution = Callable[[Array, Array], Array]


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
    x: Float[Array, "B H W C"], kernel: Float[Array, "K K C D"], stride: int = 1
) -> Float[Array, "B _ _ D"]:
    """Convolution of x padded by K // 2 zeros on every side, as PyTorch pads."""
    edges = (kernel.shape[0] // 2,) * 2
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


def _kernel_gradient(x: Array, kernel: Array, dy: Array) -> Array:
    """dK[a, b] = sum over q of x[q + (0, b)] dy[q - (a, 0)]: one product of matrices."""
    size, _, before, after = kernel.shape
    edge = size // 2
    columns = _neighbours(x, 2, range(-edge, size - edge), dy.shape[2])
    rows = _neighbours(dy, 1, range(edge, edge - size, -1), x.shape[1])
    gradient = jnp.matmul(columns.T, rows, preferred_element_type=jnp.float32)
    gradient = gradient.reshape(size, before, size, after).transpose(2, 0, 1, 3)
    return gradient.astype(kernel.dtype)


def _products(x: Array, kernel: Array) -> Array:
    """The convolution as a product of matrices for each of the kernel's taps."""
    size = kernel.shape[0]
    edge = size // 2
    height, width = (n + 2 * edge - size + 1 for n in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    return sum(
        jnp.tensordot(padded[:, a : a + height, b : b + width], kernel[a, b], 1)
        for a in range(size)
        for b in range(size)
    )


def _cpu_forward(x: Array, kernel: Array) -> Array:
    """Few pixels of many channels are mostly kernel, which XLA's convolution copies about."""
    batch, height, width, before = x.shape
    few = batch * height * width <= 512 and before >= 512
    return _products(x, kernel) if few else _convolve(x, kernel)


def _cpu_backward(inputs: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    (dx,) = jax.vjp(lambda x: _cpu_forward(x, kernel), x)[1](dy)
    return dx, _kernel_gradient(x, kernel, dy)


_cpu_convolve = jax.custom_vjp(_cpu_forward)
_cpu_convolve.defvjp(lambda x, kernel: (_cpu_forward(x, kernel), (x, kernel)), _cpu_backward)

# A kernel's gradient is a convolution whose window is the picture: XLA is slow at it on a CPU.
convolve = _by_platform(cpu=_cpu_convolve, default=_convolve)


def _upsample_plainly(x: Array, kernel: Array) -> Array:
    return _convolve(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def _upsample_by_phases(x: Array, kernel: Array) -> Array:
    """Each of an output's four phases sees 2x2 inputs through a kernel folded once: 4/9 the work.

    out[2i + a, 2j + b] = sum over u, v of x[i + a + u - 1, j + b + v - 1] folded[u, v, a, b].
    """
    batch, height, width, _ = x.shape
    before, after = kernel.shape[2:]
    fold = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    folded = jnp.einsum("auk,bvl,klio->uviabo", fold, fold, kernel)
    out = _cpu_convolve(x, folded.reshape(2, 2, before, 4 * after))
    out = out.reshape(batch, height + 1, width + 1, 2, 2, after)
    rows = [
        jnp.stack([out[:, a : height + a, b : width + b, a, b] for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, after)


# A 3x3 convolution of x doubled to its nearest neighbours.
upsample_convolve = _by_platform(cpu=_upsample_by_phases, default=_upsample_plainly)


class Conv(nn.Module):
    """A square convolution padded by kernel // 2 zeros on every side, as PyTorch pads.

    With `upsample` the input is first doubled to its nearest neighbours (a 3x3 kernel only).
    """

    features: int
    kernel: int
    stride: int
    bias: bool
    kernel_init: Initializer
    dtype: jnp.dtype | None
    upsample: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ features"]:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.upsample:
            out = upsample_convolve(x, kernel)
        else:
            out = convolve(x, kernel) if self.stride == 1 else _convolve(x, kernel, self.stride)
        return out if bias is None else out + bias[None, None, None]


def conv(
    features: int, kernel: int = 3, stride: int = 1, bias: bool = True,
    init: Initializer = orthogonal_init, dtype: jnp.dtype | None = None, name: str | None = None,
    upsample: bool = False,
) -> Conv:  # fmt: skip
    """A `Conv` with the defaults of SR3."""
    return Conv(features, kernel, stride, bias, init, dtype, upsample, name=name)
