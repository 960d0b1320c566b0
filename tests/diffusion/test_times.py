"""The draw of times and levels: each picture's own, uniform or by the area of its mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.diffusion.schedule import linear, noise_schedule
from yoda_jax.diffusion.times import draw_level

SCHEDULE = noise_schedule(linear(10, 1e-4, 0.5))
# The default generator takes ten times as long to compile.
KEY = jax.random.key(7, impl="unsafe_rbg")


def steps_of(pictures):
    """The steps of pixels, a row a picture."""
    return jnp.asarray(pictures, jnp.float32)[:, :, None, None]


def test_every_pictures_time_is_uniform_and_its_level_uniform_within_the_times_interval():
    key, count, total = jax.random.key(0), 20_000, SCHEDULE.num_steps
    t, level = draw_level(key, SCHEDULE, count, continuous=True)
    occurrences = np.bincount(t, minlength=total + 1)
    assert occurrences[0] == 0 and len(occurrences) == total + 1
    deviation = np.sqrt(count / total * (1 - 1 / total))
    assert np.abs(occurrences[1:] - count / total).max() < 4 * deviation
    low, high = SCHEDULE.signal[t], SCHEDULE.signal[t - 1]
    assert (level >= low).all() and (level <= high).all()
    place = np.asarray((level - low) / (high - low))
    # Kolmogorov-Smirnov distance from uniform; and the place says nothing about the time.
    assert np.abs(np.sort(place) - np.arange(count) / count).max() < 1.7 / np.sqrt(count)
    assert abs(np.corrcoef(place, t)[0, 1]) < 4 / np.sqrt(count)
    # Neighbours in a batch draw independently, and both modes draw the same times.
    for values in (place, np.asarray(t)):
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(count)
    same_t, discrete = draw_level(key, SCHEDULE, count, continuous=False)
    np.testing.assert_array_equal(same_t, t)
    np.testing.assert_array_equal(discrete, SCHEDULE.signal[t])


def test_times_are_drawn_in_proportion_to_the_area_of_each_pictures_mask():
    count, total = 20_000, SCHEDULE.num_steps
    one = np.array([5, 3, 2, 2, 1, 1, 1, 1])  # of its 8 pixels 8, 4, 2, 1 and 1 are in the masks
    t, level = draw_level(jax.random.key(1), SCHEDULE, count, True, steps_of([one] * count))
    expected = count * np.array([8, 4, 2, 1, 1]) / 16
    occurrences = np.bincount(t, minlength=total + 1)[1:]
    assert np.abs(occurrences[:5] - expected).max() < 4 * np.sqrt(count / 4)
    assert not occurrences[5:].any()
    assert (level >= SCHEDULE.signal[t]).all() and (level <= SCHEDULE.signal[t - 1]).all()
    few = steps_of([[1] * 8, one, [0] * 8, [0] * 7 + [total]])
    found = np.stack([draw_level(k, SCHEDULE, 4, True, few)[0] for k in jax.random.split(KEY, 40)])
    assert (found[:, [0, 2]] == 1).all()  # a picture without a mask has a time all the same
    assert len(set(found[:, 3])) > total / 2 and not np.array_equal(found[:, 1], found[:, 3])


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(("total", "shape"), [(10, (500, 5, 3, 1)), (2000, (500_000, 1, 1, 1))])
def test_steps_that_are_all_of_them_draw_what_uniform_draws(total, shape, continuous):
    """Also where t less 1 and a number below 1 are t in float32, once in 25,000 draws."""
    schedule, count = noise_schedule(linear(total, 1e-4, 0.01)), shape[0]
    every = jnp.full(shape, float(total))
    for one, other in zip(
        draw_level(KEY, schedule, count, continuous),
        draw_level(KEY, schedule, count, continuous, every),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
