"""The area mask: the exact number of steps of a pixel, however it is computed, and its limits."""

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
ATTENTION = jnp.asarray(LEVELS / 255, jnp.float32)
BOUNDS = (0, 0.05, None, 0.1, 1)  # None: 1/T


def exact_steps(levels, lower_bound, total):
    """floor(T (a / 255 + l)) within 0..T in whole numbers, l a fraction."""
    p, q = lower_bound.as_integer_ratio()
    return np.clip((levels * total * q + 255 * total * p) // (255 * q), 0, total)


def bounds_of(total):
    """Each bound as the number that a caller writes, and as what is meant by it."""
    for bound in BOUNDS:
        if bound is None:
            yield 1 / total, Fraction(1, total)
        else:
            yield bound, Fraction(str(bound))


def all_masks(attention, total, lower_bound):
    """The masks of t = 1..T, stacked along the first axis."""
    steps = diffused_steps(attention, lower_bound, total)
    steps = jnp.broadcast_to(steps, (total, *steps.shape[1:]))
    return np.asarray(area_mask(steps, jnp.arange(total) + 1))


def test_steps_are_exact_for_every_level_and_chain():
    for total in range(1, 2001):
        for bound, fraction in bounds_of(total):
            found = diffused_steps(ATTENTION, bound, total)
            np.testing.assert_array_equal(found, exact_steps(LEVELS, fraction, total))


def test_steps_and_masks_are_the_same_compiled_mapped_or_neither():
    totals = [1, 2, 7, 51, 100, 255, 1000, 1999, 2000]
    pictures = jnp.concatenate([ATTENTION, ATTENTION[:, ::-1]])

    def everything(attention):
        steps = [diffused_steps(attention, b, n) for n in totals for b, _ in bounds_of(n)]
        times = [jnp.arange(len(attention)) * n // 3 + 1 for n in totals for _ in BOUNDS]
        return steps, [area_mask(s, t) for s, t in zip(steps, times, strict=True)]

    direct = everything(pictures)
    mapped = jax.vmap(everything)(pictures[None])
    for other in (jax.jit(everything)(pictures), jax.tree.map(lambda x: x[0], mapped)):
        jax.tree.map(np.testing.assert_array_equal, direct, other)
    for steps, mask in zip(*direct, strict=True):
        assert steps.dtype == jnp.int32 and mask.dtype == bool


@given(level=st.integers(0, 255), off=st.integers(-8, 8), total=st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_steps_do_not_depend_on_how_eight_bits_were_divided(level, off, total):
    """A few units in the last place, as other processors or a reciprocal have them."""
    attention = np.float32(level) / np.float32(255)
    attention += np.float32(off) * np.spacing(attention)
    for bound, fraction in bounds_of(total):
        found = diffused_steps(jnp.full((1, 1, 1), attention), bound, total)
        assert found.item() == exact_steps(level, fraction, total)


@given(total=st.integers(1, 2000), bound=st.decimals(-1, 1, places=4), t=st.floats(0, 1, width=32))
@settings(max_examples=100, deadline=None)
def test_a_drawn_bound_gives_exact_steps_and_the_mask_that_they_say(total, bound, t):
    steps = diffused_steps(ATTENTION, float(bound), total)
    np.testing.assert_array_equal(steps, exact_steps(LEVELS, Fraction(bound), total))
    now = round(t * total)
    # A + l >= t/T, in whole numbers.
    by_hand = [
        Fraction(level, 255) + Fraction(bound) >= Fraction(now, total) for level in range(256)
    ]
    found = np.asarray(area_mask(steps, jnp.array([now]))).ravel()
    if now:
        np.testing.assert_array_equal(found, by_hand)
    else:  # at time 0 nothing is left to diffuse and nothing is masked
        assert found.all()


@pytest.mark.parametrize(("total", "bound"), [(1, 0), (7, 0.05), (100, 0.05), (100, -0.3), (49, 1)])
def test_masks_nest_and_their_number_is_that_of_the_steps(total, bound):
    masks = all_masks(ATTENTION, total, bound)
    assert not (masks[1:] & ~masks[:-1]).any()
    np.testing.assert_array_equal(masks.sum(0), diffused_steps(ATTENTION, bound, total)[0])


@pytest.mark.parametrize("total", [1, 10, 49, 1000, 2000])
def test_attention_1_is_always_diffused_and_attention_0_without_bound_never(total):
    ones, zeros = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
    for bound in (0, 0.05, 1):
        assert all_masks(ones, total, bound).all()
    assert all_masks(zeros, total, 1).all()
    assert not all_masks(zeros, total, 0).any()


@pytest.mark.parametrize("total", [10, 49, 100, 2000])
def test_bound_of_one_step_diffuses_every_pixel_in_the_last_step_alone(total):
    masks = all_masks(jnp.zeros((1, 2, 2, 1)), total, 1 / total)
    assert masks[0].all()
    assert not masks[1:].any()


@pytest.mark.parametrize(("total", "factor"), [(1, 2000), (100, 20), (49, 7), (1000, 2)])
def test_a_longer_chain_has_the_same_masks_at_the_same_relative_times(total, factor):
    for bound in (0, 0.05, 0.1, -0.2):
        longer = all_masks(ATTENTION, total * factor, bound)
        np.testing.assert_array_equal(
            longer[factor - 1 :: factor], all_masks(ATTENTION, total, bound)
        )


@pytest.mark.parametrize("total", [1, 10, 100, 2000])
@given(percent=st.integers(-50, 100))
@settings(max_examples=12, deadline=None)
def test_diffused_fraction_is_the_mean_over_steps_to_one_step(total, percent):
    fraction = float(diffused_fraction(ATTENTION, percent / 100)[0])
    excess = fraction - np.mean(diffused_steps(ATTENTION, percent / 100, total)) / total
    assert -1e-6 <= excess <= 1 / total + 1e-6


def test_each_picture_has_its_own_time_and_fraction():
    attention = jnp.concatenate([ATTENTION, ATTENTION, 1 - ATTENTION])
    steps, times = diffused_steps(attention, 0.05, 10), jnp.array([2, 8, 2])
    for i in range(3):
        alone = area_mask(steps[i : i + 1], times[i : i + 1])
        np.testing.assert_array_equal(area_mask(steps, times)[i : i + 1], alone)
    exact = np.minimum(np.asarray(attention, np.float64) + 0.05, 1).mean((1, 2, 3))
    np.testing.assert_allclose(diffused_fraction(attention, 0.05), exact, rtol=1e-6)


def test_bfloat16_attention_is_compared_in_float32():
    coarse = jnp.asarray(ATTENTION, jnp.bfloat16)
    for total in (10, 2000):
        np.testing.assert_array_equal(
            diffused_steps(coarse, 0.05, total),
            diffused_steps(coarse.astype(jnp.float32), 0.05, total),
        )
    assert diffused_fraction(coarse, 0.05).dtype == jnp.float32
