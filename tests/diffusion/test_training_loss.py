"""The training objective, seen through predictors that spy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.diffusion.formulation import SR3, SRDIFF
from yoda_jax.diffusion.loss import training_loss
from yoda_jax.diffusion.mask import Mask, area_mask, diffused_steps
from yoda_jax.diffusion.noising import add_noise
from yoda_jax.diffusion.schedule import linear, noise_schedule
from yoda_jax.diffusion.times import draw_level

SCHEDULE = noise_schedule(linear(10, 1e-4, 0.5))
# The default generator takes ten times as long to compile.
KEY = jax.random.key(7, impl="unsafe_rbg")
SHAPE = (8, 8, 8, 3)
RNG = np.random.default_rng(0)
Y0, BASE = (jnp.asarray(RNG.uniform(-0.6, 0.6, SHAPE), jnp.float32) for _ in range(2))
ATTENTION = jnp.asarray(RNG.random((*SHAPE[:3], 1), np.float32))
FULL = jnp.ones_like(ATTENTION)
UNIFORM = Mask(times="uniform")


class Spy:
    """A predictor that keeps what it saw; it answers the state times a factor."""

    def __call__(self, z, level):
        self.z, self.level = z, level
        return 0.3 * z


def spied(attention=ATTENTION, mask=UNIFORM, **options):
    spy = Spy()
    loss, diagnostics = training_loss(spy, KEY, SCHEDULE, SR3, Y0, BASE, attention, mask, **options)
    return spy, loss, diagnostics


def mask_at(t, attention=ATTENTION):
    return area_mask(diffused_steps(attention, 0.05, SCHEDULE.num_steps), t)


def draw(continuous=True):
    """The draws that training_loss makes from its key: t, signal, noise and eps."""
    key_level, key_eps = jax.random.split(KEY)
    t, signal = draw_level(key_level, SCHEDULE, SHAPE[0], continuous)
    return t, signal, jnp.sqrt(1 - signal**2), jax.random.normal(key_eps, SHAPE)


@pytest.mark.parametrize("norm", ["pixels", "area"])
def test_times_by_area_have_the_expectation_of_uniform_ones_and_see_more_pixels(norm):
    steps = np.asarray(diffused_steps(ATTENTION**3, 0.05, SCHEDULE.num_steps))
    times = np.arange(1, SCHEDULE.num_steps + 1)
    losses, fractions = {}, (steps >= times).mean((1, 2))
    weighted = (fractions**2).sum(-1) / fractions.sum(-1)
    for times, expected in {"uniform": fractions.mean(), "area": weighted.mean()}.items():

        @jax.jit
        def loss(key, times=times):
            return training_loss(
                lambda z, level: 0.3 * z,
                key,
                SCHEDULE,
                SR3,
                Y0,
                BASE,
                ATTENTION**3,
                Mask(times=times, loss_norm=norm),
            )

        runs = [loss(key) for key in jax.random.split(KEY, 300)]
        losses[times] = np.array([value for value, _ in runs])
        seen = np.mean([diagnostics.mask_fraction for _, diagnostics in runs])
        np.testing.assert_allclose(seen, expected, rtol=0.05)
    assert weighted.mean() > 1.4 * fractions.mean()
    difference = losses["uniform"].mean() - losses["area"].mean()
    error = np.sqrt(sum(values.var() / 300 for values in losses.values()))
    assert abs(difference) < 4 * error < 0.1 * losses["area"].mean()
    if norm == "pixels":
        assert losses["area"].std() < 0.5 * losses["uniform"].std()
    else:
        assert losses["area"].std() > 1.2 * losses["uniform"].std()


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("norm", ["pixels", "area"])
@pytest.mark.parametrize("lower_bound", [0.0, 0.05])
def test_attention_1_is_the_base_methods_loss(penalty, norm, lower_bound):
    for context, network_input, times in (("hr", "full", "uniform"), ("lr", "masked", "area")):
        mask = Mask(lower_bound, times, norm, context, network_input)
        spy, loss, diagnostics = spied(FULL, mask, penalty=penalty)
        _, signal, noise, eps = draw()
        z = signal[:, None, None, None] * Y0 + noise[:, None, None, None] * eps
        difference = np.abs(eps - 0.3 * z)
        plain = (difference if penalty == "l1" else difference**2).mean()
        np.testing.assert_allclose(spy.z, z, atol=1e-6)
        np.testing.assert_array_equal(spy.level, signal)
        np.testing.assert_allclose(loss, plain, rtol=1e-5)
        assert diagnostics.mask_fraction == 1.0


@pytest.mark.parametrize("norm", ["pixels", "area"])
def test_gradients_outside_the_mask_are_exactly_0(norm):
    def loss(offset):
        predict, mask = lambda z, level: 0.3 * z + offset, Mask(times="uniform", loss_norm=norm)
        return training_loss(predict, KEY, SCHEDULE, SR3, Y0, BASE, ATTENTION, mask)[0]

    gradient = jax.grad(loss)(jnp.zeros(SHAPE))
    mask = mask_at(draw()[0])
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask, SHAPE))


def test_context_and_input_say_what_the_network_sees_outside_the_mask():
    t, signal, noise, eps = draw()
    mask = mask_at(t)
    target, base = (add_noise(y, eps, signal, noise) for y in (Y0, BASE))
    outside = {
        ("hr", "full"): target,
        ("lr", "full"): base,
        ("hr", "masked"): jnp.zeros(SHAPE),
        ("lr", "masked"): jnp.zeros(SHAPE),
    }
    for (context, network_input), expected in outside.items():
        spy, loss, diagnostics = spied(
            mask=Mask(times="uniform", context=context, network_input=network_input)
        )
        np.testing.assert_allclose(spy.z, jnp.where(mask, target, expected), atol=1e-6)
        np.testing.assert_allclose(diagnostics.mask_fraction, mask.mean(), rtol=1e-6)
        by_hand = jnp.where(mask, jnp.abs(eps - 0.3 * spy.z), 0.0).mean()
        np.testing.assert_allclose(loss, by_hand, rtol=1e-5)  # outside never counts


def test_discrete_training_tells_the_network_the_index_of_the_step():
    spy, _, _ = spied(FULL, continuous=False)
    t, signal, _, eps = draw(continuous=False)
    np.testing.assert_array_equal(spy.level, t - 1)  # SRDiff counts from 0
    np.testing.assert_allclose(spy.z, add_noise(Y0, eps, signal, SCHEDULE.noise[t]), atol=1e-6)


@pytest.mark.parametrize("context", ["hr", "lr"])
@pytest.mark.parametrize(("formulation", "unit"), [(SR3, 1.0), (SRDIFF, 0.5)])
def test_colour_offset_is_that_of_the_predicted_picture_inside_the_mask(formulation, unit, context):
    """On [-1, 1] whatever is diffused: SRDiff's target counts differences twice."""
    colour, shift = jnp.array([0.05, -0.1, 0.2]), jnp.array([-0.2, 0.1, 0.15])
    _, signal, noise, eps = draw()

    def shifted(z, level):
        np.testing.assert_array_equal(level, signal)
        # z = s y0 + n eps, so eps less s/n of the shift predicts y0 plus the shift.
        return eps - (signal / noise)[:, None, None, None] * shift[None, None, None]

    hr, mask = BASE + colour[None, None, None], Mask(times="uniform", context=context)
    _, diagnostics = training_loss(shifted, KEY, SCHEDULE, formulation, hr, BASE, ATTENTION, mask)
    np.testing.assert_allclose(diagnostics.y0_offset, colour + unit * shift, atol=1e-4)


@pytest.mark.parametrize("formulation", [SR3, SRDIFF])
def test_without_a_mask_attention_plays_no_role(formulation):
    def trained(attention, mask):
        return training_loss(
            lambda z, level: 0.3 * z, KEY, SCHEDULE, formulation, Y0, BASE, attention, mask
        )

    plain = trained(None, None)
    assert plain[1].mask_fraction == 1
    for attention, mask in ((jnp.full_like(FULL, np.nan), None), (0 * FULL, None), (FULL, UNIFORM)):
        jax.tree.map(np.testing.assert_array_equal, trained(attention, mask), plain)
    assert trained(ATTENTION, Mask(lower_bound=-0.2))[1].mask_fraction < 0.5


def test_times_by_area_are_weighted_back_in_loss_and_colour_offset():
    attention = ATTENTION**3
    steps = diffused_steps(attention, 0.05, SCHEDULE.num_steps)
    key_level, key_eps = jax.random.split(KEY)
    t, signal = draw_level(key_level, SCHEDULE, SHAPE[0], True, steps)
    mask = np.asarray(mask_at(t, attention))
    weights = np.asarray(steps).mean((1, 2, 3)) / SCHEDULE.num_steps / mask.mean((1, 2, 3))
    assert len(set(np.asarray(t))) > 3 and weights.max() > 1.3 * weights.min()
    spy, loss, diagnostics = spied(attention, Mask())
    cost = np.where(mask, np.abs(jax.random.normal(key_eps, SHAPE) - 0.3 * spy.z), 0)
    np.testing.assert_allclose(loss, (weights * cost.mean((1, 2, 3))).mean(), rtol=1e-5)
    s = np.asarray(signal)[:, None, None, None]
    y0_hat = np.clip((spy.z - np.sqrt(1 - s**2) * 0.3 * spy.z) / s, -1, 1)
    off = np.where(mask, y0_hat - BASE, 0).sum((1, 2))
    pixels = (weights * mask.sum((1, 2, 3))).sum()
    np.testing.assert_allclose(diagnostics.y0_offset, weights @ off / pixels, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("times", ["uniform", "area"])
def test_an_empty_mask_everywhere_measures_nothing_and_stays_finite(times):
    nothing = jnp.zeros_like(ATTENTION)
    _, loss, diagnostics = spied(nothing, Mask(0.0, times, "area"))
    assert loss == 0.0 and diagnostics.mask_fraction == 0.0
    np.testing.assert_array_equal(diagnostics.y0_offset, 0.0)
