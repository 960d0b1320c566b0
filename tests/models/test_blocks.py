"""The shared layers against flax's and PyTorch's definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.models.blocks import GroupNorm, mish, sinusoidal


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
