"""Steppers: SR3's own steps, closed forms, orders of convergence, and what they share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.sr3 import load_golden
from reference import assert_near

from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.noising import predict_y0
from yoda_jax.diffusion.sampler import reverse_steps, sample
from yoda_jax.diffusion.schedule import cosine, gammas, linear, noise_schedule
from yoda_jax.diffusion.steppers import History, ddim, ddpm, ddpm_beta, multistep, stepper

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
    mean = ddpm(schedule, z, y0, jnp.zeros_like(z), t)
    assert_near(mean, step["mean"], 1e-6)
    x_prev = ddpm(schedule, z, y0, step["noise"], t)
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
    t = jnp.array([51, 1])
    y0 = predict_y0(z, eps, schedule.signal[t], schedule.noise[t])
    found = ddpm(schedule, z, y0, noise, t)
    assert_near(found, expected, 1e-6)


# Pictures drawn from N(MEAN, VARIANCE), small enough that no estimate is ever clipped.
MEAN, VARIANCE = 0.1, 0.01
LINEAR = linear(1000, 1e-4, 0.02)


def best(schedule, z, t):
    """The best estimate of the noise in z, linear in it."""
    s, n = schedule.signal[t], schedule.noise[t]
    s, n = (x[:, None, None, None] for x in (s, n))
    return n * (z - s * MEAN) / (s**2 * VARIANCE + n**2)


def integrated(z, betas, start, stop):
    """z at a later time by the exact flow: (z - s MEAN) keeps its share of the deviation."""
    g = np.array(gammas(betas))[[start, stop]]
    deviation = np.sqrt(g * VARIANCE + 1 - g)
    return np.sqrt(g[1]) * MEAN + (z - np.sqrt(g[0]) * MEAN) * deviation[1] / deviation[0]


Z = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (2, 4, 4, 3)), jnp.float32)


def solved(name, steps, stop):
    """z by a stepper of so many steps from 1000 to `stop`, a time of the chain of 1000."""
    schedule = noise_schedule(LINEAR, steps)
    end = int(np.searchsorted(np.asarray(schedule.index) + 1, stop))
    assert int(schedule.index[end]) + 1 == stop
    times = jnp.arange(steps, end, -1)
    state, _ = reverse_steps(
        partial(best, schedule),
        schedule,
        lambda t: jnp.zeros_like(Z),
        jnp.zeros_like(Z),
        None,
        (Z, jnp.zeros_like(Z)),
        times,
        step=stepper(name),
    )
    return np.asarray(state, np.float64)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("multistep", 2)])
def test_the_error_falls_by_the_solvers_order(name, order):
    exact = integrated(np.asarray(Z, np.float64), LINEAR, 1000, 500)
    errors = [np.abs(solved(name, n, 500) - exact).max() for n in (10, 20, 40)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (np.abs(slopes - order) < 0.35).all(), (errors, slopes)


def test_multistep_is_nearer_than_ddim_with_as_many_steps():
    exact = integrated(np.asarray(Z, np.float64), LINEAR, 1000, 100)
    error = {name: np.abs(solved(name, 20, 100) - exact).max() for name in ("ddim", "multistep")}
    assert error["multistep"] < 0.5 * error["ddim"], error


def test_ddim_of_a_linear_denoiser_is_its_closed_form():
    g = np.array(gammas(LINEAR))[::100]
    z = np.asarray(Z, np.float64)
    for before, after in zip(g[:0:-1], g[-2::-1], strict=True):
        # y0 = MEAN + share (z - sqrt(g) MEAN) and eps are linear in z.
        total = before * VARIANCE + 1 - before
        y0 = MEAN + np.sqrt(before) * VARIANCE / total * (z - np.sqrt(before) * MEAN)
        eps = np.sqrt(1 - before) / total * (z - np.sqrt(before) * MEAN)
        z = np.sqrt(after) * y0 + np.sqrt(1 - after) * eps
    np.testing.assert_allclose(solved("ddim", 10, 0), z, atol=1e-6)


def test_ddim_with_eta_1_is_ddpm_and_the_first_multistep_is_ddim():
    schedule, t = noise_schedule(cosine(100), 20), jnp.array([20, 1, 7])
    z, y0, fresh, other = np.random.default_rng(1).normal(0, 0.5, (4, 3, 4, 4, 3)).astype("f4")
    assert_near(ddim(schedule, z, y0, fresh, t, eta=1.0), ddpm(schedule, z, y0, fresh, t), 1e-5)
    unknown = History(other, np.zeros((3, 4, 4, 1), bool))
    plain = ddim(schedule, z, y0, fresh, t)
    assert_near(multistep(schedule, z, y0, fresh, t, unknown), plain, 1e-5)
    known = History(other, np.ones((3, 4, 4, 1), bool))
    second = multistep(schedule, z, y0, fresh, t, known)
    assert_near(second[:2], plain[:2], 1e-5)  # the first step and the last
    assert np.abs(second[2] - plain[2]).max() > 0.01
    # Deterministic: no noise enters.
    np.testing.assert_array_equal(ddim(schedule, z, y0, other, t), plain)


def test_the_wider_variance_is_beta_and_the_last_step_adds_none():
    betas = linear(50, 1e-3, 0.1)
    schedule, zeros = noise_schedule(betas), jnp.zeros((3, 2, 2, 3))
    found = ddpm_beta(schedule, zeros, zeros, jnp.ones_like(zeros), jnp.array([1, 2, 50]))
    np.testing.assert_allclose(found[:, 0, 0, 0] ** 2, [0, betas[1], betas[49]], rtol=1e-6)


def stand_in(z, t):
    return jnp.tanh(0.7 * z + 0.1 * t[:, None, None, None]) + 0.2 * z


@pytest.mark.parametrize("name", ["ddpm", "ddpm_beta", "ddim", "multistep"])
def test_full_attention_is_the_base_method_and_no_attention_the_base(name):
    schedule = noise_schedule(linear(10, 1e-4, 0.5))
    rng = np.random.default_rng(2)
    base = jnp.asarray(rng.uniform(-1, 1, (1, 6, 6, 3)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((12, *base.shape)), jnp.float32)

    @partial(jax.jit, static_argnames="mask")
    def run(attention, mask):
        noise = lambda t: table[t]  # noqa: E731
        return sample(
            stand_in, schedule, noise, base, attention, mask=mask, step=stepper(name, 0.3)
        )

    plain = run(None, None)
    np.testing.assert_array_equal(run(jnp.ones((1, 6, 6, 1)), Mask(0.0)), plain)
    np.testing.assert_array_equal(run(jnp.zeros((1, 6, 6, 1)), Mask(0.0)), base)
    assert np.abs(plain - base).max() > 0.1


def test_a_pixel_forgets_what_was_estimated_before_it_became_active():
    """The first step of a pixel is of first order, whenever it comes."""
    schedule = noise_schedule(linear(10, 1e-4, 0.5))
    rng = np.random.default_rng(3)
    z, wild = jnp.asarray(rng.normal(0, 0.3, (2, 1, 4, 4, 3)), jnp.float32)
    attention = jnp.full((1, 4, 4, 1), 0.5).at[:, :, 2:].set(0.9)  # the right half was active

    def at_5(name):
        state = (z, 100.0 * wild)  # what the network said of the whole frame at 6
        return reverse_steps(
            *(stand_in, schedule, lambda t: jnp.zeros_like(z), jnp.zeros_like(z), attention),
            *(state, jnp.array([5])),
            mask=Mask(0.0),
            step=stepper(name),
        )[0]

    difference = np.abs(at_5("multistep") - at_5("ddim")).max((0, 1, 3))
    assert (difference[:2] < 1e-5).all() and (difference[2:] > 1).all()


def test_an_early_start_is_cut_at_the_quantile_and_none_of_it_is_exact():
    schedule = noise_schedule(linear(10, 1e-4, 0.5))
    attention = jnp.linspace(0, 1, 100).reshape(1, 10, 10, 1)
    rng = np.random.default_rng(4)
    base = jnp.asarray(rng.uniform(-1, 1, (1, 10, 10, 3)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((12, *base.shape)), jnp.float32)
    asked = []

    def denoise(z, t):
        jax.debug.callback(lambda t: asked.append(int(t)), t[0])
        return stand_in(z, t)

    def run(truncate):
        asked.clear()
        mask = Mask(0.0, truncate=truncate)
        z = sample(denoise, schedule, lambda t: table[t], base, attention, mask=mask)
        jax.block_until_ready(z)
        jax.effects_barrier()
        return z, max(asked)

    exact, first = run(0.0)
    assert first == 10
    cut, first = run(0.4)
    assert first == 5  # as late as the last pixel below .6 starts
    early = np.asarray(attention)[0, :, :, 0] >= 0.6
    changed = np.abs(cut - exact).max(-1)[0] > 0
    assert (changed == early).all()
