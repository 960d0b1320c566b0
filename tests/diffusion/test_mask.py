"""The area mask: nesting, the exact number of steps a pixel is diffused, and its limits."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.diffusion.mask import area_mask, diffused_fraction, diffused_steps

# Every value that a stored attention map can take, as one 16x16 picture.
LEVELS = np.arange(256).reshape(1, 16, 16, 1)
ATTENTION = jnp.asarray(LEVELS, jnp.float32) / 255.0

mask_of = jax.jit(area_mask)


def all_masks(attention, total, lower_bound):
    """The masks of t = 1..T, stacked along the first axis."""
    return np.asarray(mask_of(attention, jnp.arange(1, total + 1) / total, lower_bound))


@given(
    seed=st.integers(0, 2**32 - 1),
    lower_bound=st.floats(0, 1, width=32),
    times=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
)
@settings(max_examples=100, deadline=None)
def test_masks_nest(seed, lower_bound, times):
    attention = np.random.default_rng(seed).random((1, 8, 8, 1), np.float32)
    sooner, later = (
        np.asarray(mask_of(attention, np.float32([t]), lower_bound)) for t in sorted(times)
    )
    assert sooner.dtype == bool
    assert sooner[later].all()


@pytest.mark.parametrize("total", [1, 7, 10, 100, 2000])
@given(percent=st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_a_pixel_is_diffused_floor_of_T_times_A_plus_l_steps(total, percent):
    counts = all_masks(ATTENTION, total, percent / 100).sum(0).reshape(-1)
    # A, l and their sum are each rounded to float32 (the sum is at most 2), and so is t / T.
    slack = Fraction(total) * (4 * Fraction(2) ** -24)
    for level, count in enumerate(counts):
        steps = total * (Fraction(level, 255) + Fraction(percent, 100))
        fewest, most = (min(total, (steps + s) // 1) for s in (-slack, slack))
        assert fewest <= count <= most  # the same number unless T (A + l) is almost a whole one
        assert most - fewest <= 1


@pytest.mark.parametrize("total", [1, 10, 49, 1000, 2000])
def test_attention_1_is_always_diffused_and_attention_0_without_bound_never(total):
    ones, zeros = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
    assert all_masks(ones, total, 0.0).all()
    assert not all_masks(zeros, total, 0.0).any()
    # At time 0 nothing is left to diffuse and nothing is masked.
    assert area_mask(zeros, jnp.zeros(1), 0.0).all()


@pytest.mark.parametrize("total", [10, 49, 100, 2000])
def test_bound_of_one_step_diffuses_every_pixel_in_the_last_step_alone(total):
    masks = all_masks(jnp.zeros((1, 2, 2, 1)), total, 1 / total)
    assert masks[0].all()
    assert not masks[1:].any()


@pytest.mark.parametrize("total", [10, 100])
@given(percent=st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_diffused_fraction_is_the_mean_over_steps_to_one_step(total, percent):
    fraction = float(diffused_fraction(ATTENTION, percent / 100)[0])
    excess = fraction - all_masks(ATTENTION, total, percent / 100).mean()
    assert -1e-6 <= excess <= 1 / total + 1e-6


def test_each_picture_has_its_own_time_and_fraction():
    attention = jnp.concatenate([ATTENTION, ATTENTION, 1 - ATTENTION])
    times = jnp.array([0.2, 0.8, 0.2])
    masks = mask_of(attention, times, 0.05)
    for i in range(3):
        alone = mask_of(attention[i : i + 1], times[i : i + 1], 0.05)
        np.testing.assert_array_equal(masks[i : i + 1], alone)
    exact = np.minimum(np.asarray(attention, np.float64) + 0.05, 1).mean((1, 2, 3))
    np.testing.assert_allclose(diffused_fraction(attention, 0.05), exact, rtol=1e-6)


def test_bfloat16_attention_is_compared_in_float32():
    coarse = ATTENTION.astype(jnp.bfloat16)
    times = jnp.linspace(0, 1, 50)
    np.testing.assert_array_equal(
        mask_of(coarse, times, 0.05), mask_of(coarse.astype(jnp.float32), times, 0.05)
    )
    assert diffused_fraction(coarse, 0.05).dtype == jnp.float32


@pytest.mark.parametrize("total", [1, 7, 100, 2000])
@pytest.mark.parametrize("lower_bound", [-0.3, 0.0, 0.05, 1.0])
def test_diffused_steps_are_the_number_of_masks_that_hold_a_pixel(total, lower_bound):
    pictures = jnp.concatenate([ATTENTION, ATTENTION[:, ::-1] ** 2])
    masks = [all_masks(p[None], total, lower_bound).sum(0) for p in pictures]
    for count in (diffused_steps, jax.jit(diffused_steps, static_argnums=2)):
        found = np.asarray(count(pictures, lower_bound, total))
        np.testing.assert_array_equal(found, masks)
        np.testing.assert_array_equal(found[1], count(pictures[1], lower_bound, total))
    # Their mean is the diffused fraction, but for less than a step.
    means = found.mean((1, 2, 3)) / total
    assert (np.abs(diffused_fraction(pictures, lower_bound) - means) < 1 / total + 1e-6).all()
