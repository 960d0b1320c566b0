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
    return jnp.asarray(pictures)[:, :, None, None]


def test_every_pictures_time_is_uniform_and_its_level_uniform_within_the_times_interval():
    key, count, total = jax.random.key(0), 20_000, SCHEDULE.num_steps
    t, level = draw_level(key, SCHEDULE, count, continuous=True)
    occurrences = np.bincount(t, minlength=total + 1)
    assert occurrences[0] == 0 and len(occurrences) == total + 1
    deviation = np.sqrt(count / total * (1 - 1 / total))
    assert np.abs(occurrences[1:] - count / total).max() < 4 * deviation
    low, high = SCHEDULE.signal[t], SCHEDULE.signal[t - 1]
    assert (level >= low).all() and (level <= high).all()
    within = np.asarray((level - low) / (high - low))
    # Kolmogorov-Smirnov distance from uniform; and it says nothing about the time.
    assert np.abs(np.sort(within) - np.arange(count) / count).max() < 1.7 / np.sqrt(count)
    assert abs(np.corrcoef(within, t)[0, 1]) < 4 / np.sqrt(count)
    # Neighbours in a batch draw independently, and both modes draw the same times.
    for values in (within, np.asarray(t)):
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
    every = jnp.full(shape, total)
    for one, other in zip(
        draw_level(KEY, schedule, count, continuous),
        draw_level(KEY, schedule, count, continuous, every),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


# Of twelve pictures from key 11, T = 100: those that published figures were made with.
RECORDED = {
    "uniform": (
        [29, 86, 26, 99, 58, 90, 45, 87, 24, 39, 87, 76],
        [0.90492833, 0.39099801, 0.92279005, 0.29060581, 0.66078144, 0.35901603]
        + [0.78354728, 0.39070269, 0.93484014, 0.8339057, 0.38750896, 0.48749807],
    ),
    "area": (
        [12, 54, 11, 84, 28, 64, 20, 56, 10, 17, 56, 46],
        [0.98458117, 0.69304293, 0.98694378, 0.41279241, 0.91142857, 0.59853894]
        + [0.95614558, 0.68318182, 0.98963946, 0.96877331, 0.67962098, 0.77300447],
    ),
}


@pytest.mark.parametrize("times", RECORDED)
def test_draws_are_those_of_earlier_versions(times):
    schedule = noise_schedule(linear(100, 1e-4, 0.05))
    steps = (np.arange(768).reshape(12, 8, 8, 1) * 37 % 101) ** 3 // 101**2
    by = jnp.asarray(steps) if times == "area" else None
    t, level = draw_level(jax.random.key(11), schedule, 12, True, by)
    expected, levels = RECORDED[times]
    np.testing.assert_array_equal(t, expected)
    np.testing.assert_allclose(level, levels, rtol=1e-6)
    t, level = draw_level(jax.random.key(11), schedule, 12, False, by)
    np.testing.assert_array_equal(t, expected)
    np.testing.assert_array_equal(level, schedule.signal[np.array(expected)])
