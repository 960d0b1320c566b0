"""The convolutions for a CPU against the plain ones, forwards and backwards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.models.convolution import (
    _transposed_plainly,
    conv,
    convolve,
    orthogonal_init,
    transposed_convolve,
    upsample_convolve,
)


def plain(x, kernel, stride=1):
    edge = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((edge, edge), (edge, edge)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def value_and_gradients(function, x, kernel):
    """The output and the gradients of a sum weighted unevenly over it."""

    def cost(x, kernel):
        out = function(x, kernel)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out.astype(jnp.float32) * weights).sum(), out

    return jax.grad(cost, (0, 1), has_aux=True)(x, kernel)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@given(
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
)
@settings(max_examples=6, deadline=None)
def test_convolution_and_its_gradients(batch, height, width, before, after, size):
    x, kernel = draw(0, batch, height, width, before), draw(1, size, size, before, after)
    ours, theirs = (value_and_gradients(f, x, kernel) for f in (convolve, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_few_pixels_of_many_channels():
    x, kernel = draw(8, 1, 4, 5, 512) / 23, draw(9, 3, 3, 512, 4)
    ours, theirs = (value_and_gradients(f, x, kernel) for f in (convolve, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4)


@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=4, deadline=None)
def test_doubling_and_convolving_in_phases(batch, height, width):
    x, kernel = draw(2, batch, height, width, 2), draw(3, 3, 3, 2, 3)

    def doubled(x, kernel):
        return plain(x.repeat(2, axis=1).repeat(2, axis=2), kernel)

    ours, theirs = (value_and_gradients(f, x, kernel) for f in (upsample_convolve, doubled))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4)


def mirrored(x, kernel, stride=1):
    """The convolution by its definition, of an x read at mirrored places outside of it."""
    edge = kernel.shape[0] // 2
    rows, columns = ((n - 1 - abs(n - 1 - abs(np.arange(-edge, n + edge)))) for n in x.shape[1:3])
    return jax.lax.conv_general_dilated(
        x[:, rows][:, :, columns],
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def compare(ours, theirs, x, kernel):
    """Values and both gradients."""
    ours, theirs = (jax.jit(partial(value_and_gradients, f))(x, kernel) for f in (ours, theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize(("height", "width", "size"), [(2, 5, 3), (6, 3, 3), (4, 3, 5), (1, 2, 1)])
def test_mirrored_borders(height, width, size):
    x, kernel = draw(10, 2, height, width, 2), draw(11, size, size, 2, 3)
    compare(lambda x, kernel: convolve(x, kernel, "reflect"), mirrored, x, kernel)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 2)])
def test_strides_over_mirrored_borders(height, width):
    def layer(x, kernel):
        params = {"kernel": kernel, "bias": jnp.zeros(3)}
        return conv(3, stride=2, padding="reflect").apply({"params": params}, x)

    x, kernel = draw(12, 2, height, width, 2), draw(13, 3, 3, 2, 3)
    compare(layer, lambda x, kernel: mirrored(x, kernel, 2), x, kernel)


def scattered(x, kernel):
    """Every input adds the kernel, weighted by it, to the output from s i - s / 2 on."""
    s = kernel.shape[0] // 2
    batch, height, width, _ = x.shape
    whole = np.zeros((batch, s * (height + 1), s * (width + 1), kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            part = np.einsum("nc,abcd->nabd", np.float64(x[:, i, j]), np.float64(kernel))
            whole[:, s * i : s * i + 2 * s, s * j : s * j + 2 * s] += part
    half = s // 2
    return whole[:, half : half + s * height, half : half + s * width]


def pulled_back(x, kernel):
    """The same as what it is: backwards through a convolution of stride s."""
    s = kernel.shape[0] // 2
    batch, height, width, _ = x.shape

    def forward(y):
        edges = ((s // 2, s // 2),) * 2
        return jax.lax.conv_general_dilated(
            y, kernel.swapaxes(2, 3), (s, s), edges, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return jax.vjp(forward, jnp.zeros((batch, s * height, s * width, kernel.shape[-1])))[1](x)[0]


@pytest.mark.parametrize("way", [transposed_convolve, _transposed_plainly])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_transposed_convolution_and_its_gradients(way, stride):
    """What is chosen on a CPU and what elsewhere."""
    side = 2 * stride
    x, kernel = draw(14, 2, 2, 3, 3), draw(15, side, side, 3, 2)
    (dx, dk), out = jax.jit(partial(value_and_gradients, way))(x, kernel)
    np.testing.assert_allclose(out, scattered(x, kernel), atol=2e-5)
    (expected_dx, expected_dk), same = jax.jit(partial(value_and_gradients, pulled_back))(x, kernel)
    np.testing.assert_allclose(out, same, atol=2e-5)
    np.testing.assert_allclose(dx, expected_dx, atol=2e-4)
    np.testing.assert_allclose(dk, expected_dk, atol=2e-4)


def test_transposed_convolution_of_one_pixel_is_the_middle_of_the_kernel():
    kernel = draw(16, 8, 8, 1, 1)
    out = transposed_convolve(jnp.ones((1, 1, 1, 1)), kernel)
    np.testing.assert_allclose(out[0, :, :, 0], kernel[2:6, 2:6, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("function", [convolve, upsample_convolve, transposed_convolve])
def test_accelerators_get_plain_convolutions(function):
    """What is lowered for a TPU: no products of matrices, neither forwards nor backwards."""
    side = 4 if function is transposed_convolve else 3
    arguments = draw(4, 1, 8, 8, 4), draw(5, side, side, 4, 4)
    traced = jax.jit(lambda x, k: value_and_gradients(function, x, k)).trace(*arguments)
    tpu, cpu = (traced.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cpu"))
    assert "stablehlo.dot_general" in cpu and "stablehlo.dot_general" not in tpu
    assert tpu.count("stablehlo.convolution") == 3


def test_strided_convolution_pads_both_sides():
    """PyTorch's Conv2d(3, stride 2, padding 1) starts at -1, where "SAME" would start at 0."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    params = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}
    out = conv(1, stride=2).apply({"params": params}, x)
    np.testing.assert_array_equal(
        out[0, :, :, 0], [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7], [4 + 5 + 8 + 9 + 12 + 13, 90]]
    )


def test_bfloat16_is_computed_and_summed_apart():
    """Inputs in bfloat16 give its output type, and kernel gradients summed in float32."""
    x, kernel = draw(6, 2, 8, 8, 4), draw(7, 3, 3, 4, 4)
    half = value_and_gradients(convolve, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    full = value_and_gradients(convolve, x, kernel)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(a.astype(np.float32) - b).max() < 0.03 * np.abs(b).max()


def test_layers_hold_kernel_and_bias_and_start_orthogonal():
    params = conv(4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]
    shapes = {path[-1]: value.shape for path, value in flatten_dict(params).items()}
    assert shapes == {"kernel": (3, 3, 2, 4), "bias": (4,)}
    rows = np.asarray(orthogonal_init(jax.random.key(1), (3, 3, 2, 4))).reshape(18, 4)
    np.testing.assert_allclose(rows.T @ rows, np.eye(4), atol=1e-5)
