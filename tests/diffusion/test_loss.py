"""The masked loss and the training objective, seen through predictors that spy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from yoda_jax.diffusion.loss import masked_loss, training_loss
from yoda_jax.diffusion.mask import area_mask, diffused_steps
from yoda_jax.diffusion.noising import add_noise
from yoda_jax.diffusion.schedule import linear, noise_schedule
from yoda_jax.diffusion.times import draw_level

SCHEDULE = noise_schedule(linear(10, 1e-4, 0.5))
# The default generator takes ten times as long to compile.
KEY = jax.random.key(7, impl="unsafe_rbg")
SHAPE = (8, 8, 8, 3)
RNG = np.random.default_rng(0)
Y0, BASE = (RNG.uniform(-0.6, 0.6, SHAPE).astype(np.float32) for _ in range(2))
ATTENTION = RNG.random((*SHAPE[:3], 1), np.float32)
FULL = np.ones_like(ATTENTION)


class Spy:
    """A predictor that keeps what it saw; it answers the state times a factor."""

    def __call__(self, z, level):
        self.z, self.level = z, level
        return 0.3 * z


def spied(attention=ATTENTION, **options):
    spy = Spy()
    loss, diagnostics = training_loss(spy, KEY, SCHEDULE, Y0, BASE, attention, **options)
    return spy, loss, diagnostics


def draw(continuous=True):
    """The draws that training_loss makes from its key: t, signal, noise and eps."""
    key_level, key_eps = jax.random.split(KEY)
    t, signal = draw_level(key_level, SCHEDULE, SHAPE[0], continuous)
    return t, signal, jnp.sqrt(1 - signal**2), jax.random.normal(key_eps, SHAPE)


def random_pair(mask_share=0.5):
    rng = np.random.default_rng(3)
    eps_hat, eps = rng.standard_normal((2, *SHAPE), np.float32)
    return eps_hat, eps, jnp.asarray(rng.random((*SHAPE[:3], 1)) < mask_share)


@pytest.mark.parametrize("norm", ["pixels", "area"])
def test_full_mask_is_the_plain_loss(norm):
    eps_hat, eps, _ = random_pair()
    difference = eps_hat.astype(np.float64) - eps
    for penalty, cost in {"l1": np.abs(difference), "l2": difference**2}.items():
        found = masked_loss(eps_hat, eps, jnp.ones((*SHAPE[:3], 1), bool), norm, penalty)
        np.testing.assert_allclose(found, cost.mean((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_area_counts_the_masks_pixels_alone(penalty):
    eps_hat, eps, mask = random_pair(0.2)
    difference = np.abs(eps_hat.astype(np.float64) - eps)
    cost = difference if penalty == "l1" else difference**2
    area = masked_loss(eps_hat, eps, mask, "area", penalty)
    inside = [cost[i][np.asarray(mask[i, ..., 0])].mean() for i in range(SHAPE[0])]
    np.testing.assert_allclose(area, inside, rtol=1e-6)
    pixels = masked_loss(eps_hat, eps, mask, "pixels", penalty)
    np.testing.assert_allclose(pixels, area * mask.mean((1, 2, 3)), rtol=1e-6)


def ssim_pair(share=0.5):
    """Noise, a prediction near it, and a mask, of pictures larger than SSIM's window."""
    rng = np.random.default_rng(5)
    eps, error = rng.standard_normal((2, 2, 24, 19, 3), np.float32)
    return eps + 0.5 * error, eps, rng.random((2, 24, 19, 1)) < share


def ssim_map(a, b):
    """SSIM in float64 by SciPy's filter, zeros around the picture."""

    def mean(x):
        return gaussian_filter(x, 1.5, mode="constant", truncate=3.5, axes=(1, 2))

    a, b = (np.float64(x) / 2 + 0.5 for x in (a, b))
    luminance = (2 * mean(a) * mean(b) + 1e-4) / (mean(a) ** 2 + mean(b) ** 2 + 1e-4)
    variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    return luminance * (2 * (mean(a * b) - mean(a) * mean(b)) + 9e-4) / (variances + 9e-4)


def ssim_loss(eps_hat, eps, mask, norm):
    """L1 + 1 - SSIM within the mask, of a prediction that is right outside."""
    eps_hat = np.where(mask, np.float64(eps_hat), eps)
    cost = mask * (np.abs(eps_hat - eps) + 1 - ssim_map(eps_hat, eps))
    counted = mask if norm == "area" else np.ones_like(mask)
    return cost.sum((1, 2, 3)) / np.maximum(3 * counted.sum((1, 2, 3)), 1)


compiled_loss = jax.jit(masked_loss, static_argnums=(3, 4))


@pytest.mark.parametrize("norm", ["pixels", "area"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.1])
def test_ssim_compares_windows_that_are_equal_outside_the_mask(share, norm):
    eps_hat, eps, mask = ssim_pair(share)
    found = compiled_loss(eps_hat, eps, jnp.asarray(mask), norm, "ssim")
    np.testing.assert_allclose(found, ssim_loss(eps_hat, eps, mask, norm), rtol=1e-5)
    # What is predicted outside changes nothing, not even if it is no number.
    other = jnp.where(mask, eps_hat, jnp.nan)
    np.testing.assert_array_equal(compiled_loss(other, eps, jnp.asarray(mask), norm, "ssim"), found)


def test_ssim_is_scikit_images_where_no_window_leaves_the_picture():
    a, b, _ = ssim_pair()
    _, expected = structural_similarity(
        *(np.float64(x[0]) / 2 + 0.5 for x in (a, b)), data_range=1, channel_axis=-1,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip
    inside = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(ssim_map(a, b)[0][inside], expected[inside], rtol=1e-9)


def test_ssims_gradient_is_its_slope_and_exactly_0_outside_the_mask():
    eps_hat, eps, mask = ssim_pair()
    loss = jax.jit(
        jax.grad(lambda e: masked_loss(e, eps, jnp.asarray(mask), "pixels", "ssim").mean())
    )
    gradient = np.float64(loss(eps_hat))
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask, eps.shape))
    direction = np.random.default_rng(6).standard_normal(eps.shape)
    ahead, behind = (
        ssim_loss(eps_hat + sign * 1e-7 * direction, eps, mask, "pixels").mean() for sign in (1, -1)
    )
    slope = (gradient * direction).sum()
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-7, rtol=1e-3)


def test_ssim_of_a_right_prediction_costs_nothing():
    _, eps, mask = ssim_pair()
    loss = compiled_loss(eps, eps, jnp.asarray(mask), "area", "ssim")
    np.testing.assert_allclose(loss, 0, atol=1e-6)


@pytest.mark.parametrize("norm", ["pixels", "area"])
def test_empty_mask_counts_0_with_a_finite_gradient(norm):
    eps_hat, eps, mask = random_pair()
    mask = mask.at[0].set(False)
    loss, gradient = jax.value_and_grad(lambda e: masked_loss(e, eps, mask, norm).mean())(eps_hat)
    assert masked_loss(eps_hat, eps, mask, norm)[0] == 0.0
    assert np.isfinite(loss)
    np.testing.assert_array_equal(gradient[0], 0.0)
    # L1: every channel of a pixel inside pulls by its sign, divided by what the norm divides by.
    counted = (mask if norm == "area" else jnp.ones_like(mask)).sum((1, 2, 3), keepdims=True)
    expected = jnp.where(mask, jnp.sign(eps_hat - eps), 0) / (3 * jnp.maximum(counted, 1) * 8)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_bfloat16_predictions_are_compared_in_float32():
    eps_hat, eps, mask = random_pair()
    coarse = jnp.asarray(eps_hat, jnp.bfloat16)
    found = masked_loss(coarse, eps, mask)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, masked_loss(coarse.astype(jnp.float32), eps, mask))


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
                lambda z, level: 0.3 * z, key, SCHEDULE, Y0, BASE, ATTENTION**3, times=times,
                norm=norm,
            )  # fmt: skip

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
        spy, loss, diagnostics = spied(
            FULL, lower_bound=lower_bound, norm=norm, penalty=penalty, context=context,
            network_input=network_input, times=times,
        )  # fmt: skip
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
        return training_loss(
            lambda z, level: 0.3 * z + offset, KEY, SCHEDULE, Y0, BASE, ATTENTION, norm=norm
        )[0]

    gradient = jax.grad(loss)(jnp.zeros(SHAPE))
    mask = area_mask(ATTENTION, draw()[0] / SCHEDULE.num_steps, 0.05)
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask, SHAPE))


def test_context_and_input_say_what_the_network_sees_outside_the_mask():
    t, signal, noise, eps = draw()
    mask = area_mask(ATTENTION, t / SCHEDULE.num_steps, 0.05)
    target, base = (add_noise(y, eps, signal, noise) for y in (Y0, BASE))
    outside = {
        ("hr", "full"): target,
        ("lr", "full"): base,
        ("hr", "masked"): jnp.zeros(SHAPE),
        ("lr", "masked"): jnp.zeros(SHAPE),
    }
    for (context, network_input), expected in outside.items():
        spy, loss, diagnostics = spied(context=context, network_input=network_input)
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
def test_colour_offset_of_the_prediction_is_measured_inside_the_mask(context):
    colour, shift = jnp.array([0.05, -0.1, 0.2]), jnp.array([-0.2, 0.1, 0.15])
    _, signal, noise, eps = draw()

    def shifted(z, level):
        np.testing.assert_array_equal(level, signal)
        # z = s y0 + n eps, so eps less s/n of the shift predicts y0 plus the shift.
        return eps - (signal / noise)[:, None, None, None] * shift[None, None, None]

    _, diagnostics = training_loss(
        shifted, KEY, SCHEDULE, BASE + colour[None, None, None], BASE, ATTENTION, context=context
    )
    np.testing.assert_allclose(diagnostics.y0_offset, colour + shift, atol=1e-4)


def test_times_by_area_are_weighted_back_in_loss_and_colour_offset():
    attention = ATTENTION**3
    steps = diffused_steps(attention, 0.05, SCHEDULE.num_steps)
    key_level, key_eps = jax.random.split(KEY)
    t, signal = draw_level(key_level, SCHEDULE, SHAPE[0], True, steps)
    mask = np.asarray(area_mask(attention, t / SCHEDULE.num_steps, 0.05))
    weights = np.asarray(steps).mean((1, 2, 3)) / SCHEDULE.num_steps / mask.mean((1, 2, 3))
    assert len(set(np.asarray(t))) > 3 and weights.max() > 1.3 * weights.min()
    spy, loss, diagnostics = spied(attention, times="area")
    cost = np.where(mask, np.abs(jax.random.normal(key_eps, SHAPE) - 0.3 * spy.z), 0)
    np.testing.assert_allclose(loss, (weights * cost.mean((1, 2, 3))).mean(), rtol=1e-5)
    s = np.asarray(signal)[:, None, None, None]
    y0_hat = np.clip((spy.z - np.sqrt(1 - s**2) * 0.3 * spy.z) / s, -1, 1)
    off = np.where(mask, y0_hat - BASE, 0).sum((1, 2))
    pixels = (weights * mask.sum((1, 2, 3))).sum()
    np.testing.assert_allclose(diagnostics.y0_offset, weights @ off / pixels, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("times", ["uniform", "area"])
def test_an_empty_mask_everywhere_measures_nothing_and_stays_finite(times):
    nothing = np.zeros_like(ATTENTION)
    _, loss, diagnostics = spied(nothing, lower_bound=0.0, norm="area", times=times)
    assert loss == 0.0 and diagnostics.mask_fraction == 0.0
    np.testing.assert_array_equal(diagnostics.y0_offset, 0.0)


@pytest.mark.parametrize("penalty", ["l1", "l2", "ssim"])
def test_what_is_not_finite_outside_the_mask_spoils_no_gradient(penalty):
    eps_hat, eps, mask = ssim_pair()
    spoilt = jnp.where(mask, eps_hat, jnp.nan)
    gradients = [
        jax.grad(lambda x: masked_loss(x, eps, mask, penalty=penalty).sum())(x)
        for x in (eps_hat, spoilt)
    ]
    np.testing.assert_array_equal(*gradients)
    assert np.isfinite(gradients[0]).all() and np.any(np.asarray(gradients[0]) != 0)
