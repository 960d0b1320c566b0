"""Noising, its inverse and one reverse step, against the steps of the SR3 implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.sr3 import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_near

from yoda_jax.diffusion.noising import add_noise, blend, posterior_step, predict_y0
from yoda_jax.diffusion.schedule import linear, noise_schedule

SCHEDULES = {
    "T2000": noise_schedule(linear(2000, 1e-6, 1e-2)),
    "T100": noise_schedule(linear(100, 1e-4, 9e-2)),
}
STEPS = [("T2000", 1999), ("T2000", 1000), ("T2000", 1), ("T2000", 0)]
STEPS += [("T100", 99), ("T100", 50), ("T100", 0)]


@pytest.fixture(scope="module")
def golden():
    return {k: jnp.asarray(v) for k, v in load_golden().items() if v.dtype == np.float32}


@pytest.mark.parametrize(("tag", "reference_t"), STEPS)
def test_reverse_step_is_the_references(golden, tag, reference_t):
    schedule = SCHEDULES[tag]
    step = {
        k: golden[f"step/{tag}/t{reference_t}/{k}"]
        for k in ("eps", "noise", "x0", "mean", "x_prev", "logvar", "noise_level")
    }
    z = golden["x_noisy"]
    t = jnp.full(len(z), reference_t + 1)  # the reference counts from 0
    assert_near(schedule.signal[t[0]], step["noise_level"], 1e-6)
    y0 = predict_y0(z, step["eps"], schedule.signal[t], schedule.noise[t])
    # The state is divided by the level, at the noisiest by 0.007.
    assert_near(y0, step["x0"], 1e-6 / step["noise_level"])
    mean = posterior_step(schedule, z, step["eps"], jnp.zeros_like(z), t)
    assert_near(mean, step["mean"], 1e-6)
    x_prev = posterior_step(schedule, z, step["eps"], step["noise"], t)
    assert_near(x_prev, step["x_prev"], 1e-6)
    if reference_t:
        variance = np.exp(np.float64(step["logvar"]))
        assert_near(schedule.posterior_std[t[0]] ** 2, variance)
    else:
        np.testing.assert_array_equal(x_prev, mean)  # the last step adds no noise


def test_every_picture_steps_from_its_own_time(golden):
    schedule, z = SCHEDULES["T100"], golden["x_noisy"]
    steps = [golden[f"step/T100/t{t}/{k}"] for t in (50, 0) for k in ("eps", "noise", "x_prev")]
    eps, noise, expected = (
        jnp.stack([a[0], b[1]]) for a, b in zip(steps[:3], steps[3:], strict=True)
    )
    found = posterior_step(schedule, z, eps, noise, jnp.array([51, 1]))
    assert_near(found, expected, 1e-6)


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
        z = posterior_step(schedule, z, eps, fresh, jnp.array([t]))
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
