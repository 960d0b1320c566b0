"""The masked loss of each penalty and norm: its values, and gradients outside the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from yoda_jax.diffusion.loss import masked_loss

SHAPE = (8, 8, 8, 3)


def random_pair(mask_share=0.5):
    rng = np.random.default_rng(3)
    eps_hat, eps = jnp.asarray(rng.standard_normal((2, *SHAPE)), jnp.float32)
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
    eps, error = jnp.asarray(rng.standard_normal((2, 2, 24, 19, 3), np.float32))
    return eps + 0.5 * error, eps, jnp.asarray(rng.random((2, 24, 19, 1)) < share)


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
    mask, eps = np.asarray(mask), np.float64(eps)
    eps_hat = np.where(mask, np.float64(eps_hat), eps)
    cost = mask * (np.abs(eps_hat - eps) + 1 - ssim_map(eps_hat, eps))
    counted = mask if norm == "area" else np.ones_like(mask)
    return cost.sum((1, 2, 3)) / np.maximum(3 * counted.sum((1, 2, 3)), 1)


compiled_loss = jax.jit(masked_loss, static_argnums=(3, 4))


@pytest.mark.parametrize("norm", ["pixels", "area"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.1])
def test_ssim_compares_windows_that_are_equal_outside_the_mask(share, norm):
    eps_hat, eps, mask = ssim_pair(share)
    found = compiled_loss(eps_hat, eps, mask, norm, "ssim")
    np.testing.assert_allclose(found, ssim_loss(eps_hat, eps, mask, norm), rtol=1e-5)
    # What is predicted outside changes nothing, not even if it is no number.
    other = jnp.where(mask, eps_hat, jnp.nan)
    np.testing.assert_array_equal(compiled_loss(other, eps, mask, norm, "ssim"), found)


def test_ssim_is_scikit_images_where_no_window_leaves_the_picture():
    a, b, _ = ssim_pair()
    _, expected = structural_similarity(
        *(np.float64(x[0]) / 2 + 0.5 for x in (a, b)),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inside = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(ssim_map(a, b)[0][inside], expected[inside], rtol=1e-9)


def test_ssims_gradient_is_its_slope_and_exactly_0_outside_the_mask():
    eps_hat, eps, mask = ssim_pair()
    loss = jax.jit(jax.grad(lambda e: masked_loss(e, eps, mask, "pixels", "ssim").mean()))
    gradient = np.float64(loss(eps_hat))
    np.testing.assert_array_equal(gradient != 0, np.broadcast_to(mask, eps.shape))
    direction = np.random.default_rng(6).standard_normal(eps.shape)
    ahead, behind = (
        ssim_loss(np.float64(eps_hat) + sign * 1e-7 * direction, eps, mask, "pixels").mean()
        for sign in (1, -1)
    )
    slope = (gradient * direction).sum()
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-7, rtol=1e-3)


def test_ssim_of_a_right_prediction_costs_nothing():
    _, eps, mask = ssim_pair()
    loss = compiled_loss(eps, eps, mask, "area", "ssim")
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
