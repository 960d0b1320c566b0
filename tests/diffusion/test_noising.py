"""Noising and its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.diffusion.noising import add_noise, blend, predict_y0
from yoda_jax.diffusion.schedule import linear, noise_schedule
from yoda_jax.diffusion.steppers import ddpm


@given(seed=st.integers(0, 2**32 - 1), signal=st.floats(0.05, 1.0))
@settings(max_examples=50, deadline=None)
def test_predicted_target_inverts_noising(seed, signal):
    rng = np.random.default_rng(seed)
    y0 = jnp.asarray(rng.uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)
    eps = jnp.asarray(rng.standard_normal(y0.shape), jnp.float32)
    level = jnp.array([signal, 1.0], jnp.float32)
    noise = jnp.sqrt(1 - level**2)
    z = add_noise(y0, eps, level, noise)
    np.testing.assert_array_equal(z[1], y0[1])  # level 1 is the clean picture
    np.testing.assert_allclose(predict_y0(z, eps, level, noise), y0, atol=1e-6 / signal)


def test_noised_picture_keeps_unit_variance_and_prediction_is_clipped():
    y0, eps = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 64, 64, 3)), jnp.float32)
    signal = jnp.array([0.1, 0.7, 0.99])
    noise = jnp.sqrt(1 - signal**2)
    z = add_noise(y0, eps, signal, noise)
    np.testing.assert_allclose(z.std((1, 2, 3)), 1.0, atol=0.03)
    np.testing.assert_allclose((z * eps).mean((1, 2, 3)), noise, atol=0.05)
    found = np.asarray(predict_y0(z, eps, signal, noise))
    np.testing.assert_allclose(found, np.clip(y0, -1, 1), atol=2e-5)
    assert np.abs(found).max() == 1.0


def test_the_true_noise_leads_back_to_the_target():
    schedule = noise_schedule(linear(10, 1e-4, 0.5))
    draws = np.random.default_rng(1).uniform(-1, 1, (3, 1, 8, 8, 3))
    y0, z, fresh = jnp.asarray(draws, jnp.float32)
    for t in range(10, 0, -1):
        eps = (z - schedule.signal[t] * y0) / schedule.noise[t]
        level = schedule.signal[t][None], schedule.noise[t][None]
        z = ddpm(schedule, z, predict_y0(z, eps, *level), fresh, jnp.array([t]))
    np.testing.assert_allclose(z, y0, atol=1e-5)


def test_blend_keeps_nan_outside_in_values_and_gradients():
    mask = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 1)) < 0.5)
    inside, nan = jnp.full((2, 4, 4, 3), 2.0), jnp.full((2, 4, 4, 3), jnp.nan)
    everywhere = np.broadcast_to(mask, inside.shape)
    np.testing.assert_array_equal(blend(mask, inside, nan), np.where(everywhere, 2.0, np.nan))
    np.testing.assert_array_equal(blend(mask, nan, inside), np.where(everywhere, np.nan, 2.0))

    def of_picture(inside, outside):
        return jnp.where(mask, blend(mask, inside**2, outside), 0.0).sum()

    to_inside, to_outside = jax.grad(of_picture, argnums=(0, 1))(inside, nan)
    np.testing.assert_array_equal(to_inside, np.where(everywhere, 4.0, 0.0))
    np.testing.assert_array_equal(to_outside, 0.0)
    full = jax.grad(lambda outside: blend(mask, nan, outside).sum())(inside)
    np.testing.assert_array_equal(full, np.where(everywhere, 0.0, 1.0))
