"""Examples of one picture count once; intervals hold what they say."""

import numpy as np
from scipy import stats

from yoda_jax.evaluation.intervals import by_picture, interval


def test_examples_of_a_picture_count_once():
    values = by_picture(np.array([1.0, 5.0, 3.0, 7.0]), ["b", "a", "b", "b"])
    np.testing.assert_allclose(values, [5, 11 / 3])


def test_examples_reproduced_exactly_are_left_out_of_all_rows():
    psnr = np.array([[[1.0, np.inf, 3.0]], [[5.0, 6.0, 7.0]]])
    np.testing.assert_allclose(by_picture(psnr, ["a", "a", "b"]), [[[1, 3]], [[5, 7]]])


def test_where_nothing_is_finite_there_is_no_mean():
    assert np.isnan(by_picture(np.full((2, 3, 2), np.inf), ["a", "b"])).all()


def test_interval_of_one_training_is_that_of_the_t_test():
    differences = np.random.default_rng(0).normal(1, 2, (1, 12))
    mean, half = interval(differences)
    low, high = stats.ttest_1samp(differences[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


def test_interval_covers_trainings_and_pictures():
    """Of trainings and pictures drawn at random, 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        differences = rng.normal(0, 1, (5, 1)) + rng.normal(0, 2, 20) + rng.normal(0, 0.5, (5, 20))
        mean, half = interval(differences)
        covered.append(abs(mean) <= half)
    assert 0.92 <= np.mean(covered) <= 0.99
    assert interval(np.ones((3, 4))) == (1.0, 0.0)
