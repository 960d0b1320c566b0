"""The shared layers against flax's and PyTorch's definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_near

from yoda_jax.models.blocks import GroupNorm, Layers, doubled, mish, orthogonal_init, sinusoidal


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_norm_equals_flax_in_value_and_gradient(groups):
    keys = jax.random.split(jax.random.key(0), 3)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], (2, 6, 5, 8))
    params = {"scale": jax.random.normal(keys[1], (8,)), "bias": jax.random.normal(keys[2], (8,))}

    def run(module, x):
        with jax.numpy_rank_promotion("allow"):  # flax's own layer promotes
            return jnp.sin(module.apply({"params": params}, x)).sum()

    ours, theirs = GroupNorm(groups), nn.GroupNorm(groups, epsilon=1e-5)
    for value, expected in zip(
        jax.value_and_grad(lambda x: run(ours, x))(x),
        jax.value_and_grad(lambda x: run(theirs, x))(x),
        strict=True,
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 10, 100, 1000])
@pytest.mark.parametrize("deviation", [1e-3, 1.0, 30.0])
def test_group_norm_keeps_its_digits_whatever_the_mean(ratio, deviation):
    """The ratio of mean to deviation; at the smallest deviation epsilon counts more than it."""
    x = np.random.default_rng(0).standard_normal((2, 16, 12, 8)) * deviation
    x[:, 0] *= 0.1  # the first row is unlike the others
    x = np.float32(x + ratio * deviation)
    groups = np.float64(x).reshape(2, 16, 12, 4, 2)
    mean, variance = (f(groups, (1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    assert_near(GroupNorm(4).apply({"params": params}, x), expected, 2e-6)


def test_group_norm_keeps_statistics_in_float32():
    x = 100.0 + jax.random.normal(jax.random.key(1), (1, 16, 16, 4))
    params = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    out = GroupNorm(2).apply({"params": params}, x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    # bfloat16 holds 100 + noise in steps of .5, whose mean and variance are still right.
    assert abs(float(out.astype(jnp.float32).mean())) < 0.02
    assert abs(float(out.astype(jnp.float32).std()) - 1) < 0.02


def test_frequencies_end_where_each_method_ends_them():
    level = jnp.array([1.0])
    srdiff = np.arcsin(sinusoidal(level, 8, 1.0)[0, 3])
    sr3 = np.arcsin(sinusoidal(level, 8, 3 / 4)[0, 3])
    np.testing.assert_allclose([srdiff, sr3], [1e-4, 1e-3], rtol=1e-4)


def test_mish_is_its_definition_everywhere_with_its_slope():
    x = np.linspace(-100, 100, 4001)
    softplus = np.log1p(np.exp(x))
    expected = x * np.tanh(softplus)
    slope = np.tanh(softplus) + x * (1 - np.tanh(softplus) ** 2) / (1 + np.exp(-x))
    value, gradient = jax.vmap(jax.value_and_grad(mish))(jnp.asarray(x, jnp.float32))
    # Relative down to where float32 ends: what is left at -80, x e^x, still counts.
    tiny = x < -80
    np.testing.assert_allclose(value[~tiny], expected[~tiny], rtol=2e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)
    np.testing.assert_allclose(value[tiny], 0, atol=1e-32)
    np.testing.assert_array_equal(value[x > 10], np.float32(x)[x > 10])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("upstream", [1e-4, 1e-7, 1e-20])
def test_small_gradients_pass_mish_whole(upstream):
    """As those of a mean loss are: no intermediate value of theirs may be lost."""
    x = np.linspace(-30, 30, 1201)
    tanh = np.tanh(np.log1p(np.exp(x)))
    slope = tanh + x * (1 - tanh**2) / (1 + np.exp(-x))
    (gradient,) = jax.vjp(mish, jnp.asarray(x, jnp.float32))[1](jnp.full(1201, upstream, "f"))
    np.testing.assert_allclose(gradient / np.float32(upstream), slope, rtol=1e-4, atol=1e-5)


def test_mish_of_bfloat16_stays_finite():
    x = jnp.array([-100, -1, 0, 1, 100], jnp.bfloat16)
    value, gradient = jax.vmap(jax.value_and_grad(mish))(x)
    assert value.dtype == gradient.dtype == jnp.bfloat16
    expected = np.array([0, -0.3034, 0, 0.8651, 100])
    np.testing.assert_allclose(np.float32(value), expected, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(np.float32(gradient)[[0, 2, 4]], [0, 0.6, 1], atol=0.01)


def plain_layers(dtype=jnp.float32, precision="default"):
    return Layers(orthogonal_init, dtype, precision)


def run(layer, x, kernel):
    """The layer with this kernel and no bias."""
    params = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[-1])}
    return jax.jit(layer.apply)({"params": params}, x)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(2, 5, 1), (6, 3, 1), (4, 6, 2), (5, 2, 2)]
)
def test_mirrored_borders(height, width, stride):
    x, kernel = draw(0, 2, height, width, 2), draw(1, 3, 3, 2, 3)
    rows, columns = ((n - 1 - abs(n - 1 - abs(np.arange(-1, n + 1)))) for n in (height, width))
    found = run(plain_layers().conv(3, padding="REFLECT", strides=stride), x, kernel)
    whole = run(plain_layers().conv(3, padding=0), x[:, rows][:, :, columns], kernel)
    assert_near(found, whole[:, ::stride, ::stride], 2e-6)


def test_a_stride_pads_both_sides():
    """PyTorch's Conv2d(3, stride 2, padding 1) starts at -1, where "SAME" would start at 0."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    out = run(plain_layers().conv(1, strides=2), x, jnp.ones((3, 3, 1, 1)))
    np.testing.assert_array_equal(
        out[0, :, :, 0], [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7], [4 + 5 + 8 + 9 + 12 + 13, 90]]
    )


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_transposed_convolution_adds_the_kernel_around_every_input(scale):
    """Weighted by it, from scale i - scale / 2 on."""
    x, kernel = draw(2, 2, 2, 3, 3), draw(3, 2 * scale, 2 * scale, 3, 2)
    whole = np.zeros((2, scale * 3, scale * 4, 2))
    for i in range(2):
        for j in range(3):
            part = np.einsum("nc,abcd->nabd", np.float64(x[:, i, j]), np.float64(kernel))
            top, left = scale * i, scale * j
            whole[:, top : top + 2 * scale, left : left + 2 * scale] += part
    half = scale // 2
    expected = whole[:, half : half + 2 * scale, half : half + 3 * scale]
    assert_near(run(plain_layers().transposed(2, scale), x, kernel), expected, 2e-6)


def test_doubled_repeats_every_pixel():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    rows = [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    np.testing.assert_array_equal(doubled(x)[0, :, :, 0], rows)


def test_layers_hold_kernel_and_bias_and_start_orthogonal():
    params = plain_layers().conv(4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 3, 2, 4), "bias": (4,)}
    rows = np.asarray(params["kernel"]).reshape(18, 4)
    np.testing.assert_allclose(rows.T @ rows, np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(params["bias"], 0)
