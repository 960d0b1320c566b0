"""The convolutions for a CPU against the plain ones, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.models.convolution import conv, convolve, orthogonal_init, upsample_convolve


def plain(x, kernel, stride=1):
    edge = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((edge, edge), (edge, edge)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


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
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([1, 3]),
)  # fmt: skip
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


@pytest.mark.parametrize("function", [convolve, upsample_convolve])
def test_accelerators_get_plain_convolutions(function):
    """What is lowered for a TPU: no products of matrices, neither forwards nor backwards."""
    arguments = draw(4, 1, 8, 8, 4), draw(5, 3, 3, 4, 4)
    traced = jax.jit(lambda x, k: value_and_gradients(function, x, k)).trace(*arguments)
    tpu, cpu = (traced.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cpu"))
    assert "stablehlo.dot_general" in cpu and "stablehlo.dot_general" not in tpu
    assert tpu.count("stablehlo.convolution") == 3


def test_strided_convolution_pads_both_sides():
    """PyTorch's Conv2d(3, stride 2, padding 1) starts at -1, where "SAME" would start at 0."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    params = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}
    out = conv(1, stride=2).apply({"params": params}, x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7],
                                                    [4 + 5 + 8 + 9 + 12 + 13, 90]])  # fmt: skip


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
