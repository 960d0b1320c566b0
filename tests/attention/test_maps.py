"""Stored heads, aggregation and normalisation: properties over drawn maps, and a real picture."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import data

from yoda_jax.attention import maps
from yoda_jax.attention.classical import edges
from yoda_jax.diffusion.mask import diffused_fraction, diffused_steps
from yoda_jax.errors import UserError

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
HEADS = hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1e4, width=32))
MAPS = HEADS.map(lambda heads: heads[0])
SIZES = st.tuples(st.integers(6, 24), st.integers(6, 24))
quick = settings(max_examples=80, deadline=None)


def has_content(attention):
    """Well above the rounding of 8 bits, so that resizing cannot make it constant."""
    return np.ptp(attention) > 0.05 * attention.max()


@given(HEADS)
@quick
def test_stored_heads_are_off_by_half_a_step_at_most(heads):
    stored, scale = maps.quantise(heads)
    assert stored.dtype == np.uint8 and scale.dtype == np.float32
    np.testing.assert_array_equal(scale, heads.max((1, 2)))
    error = np.abs(maps.dequantise(stored, scale).astype(np.float64) - heads).max((1, 2))
    assert (error <= scale / 510 * (1 + 1e-4) + 1e-37).all()
    assert (stored.max((1, 2)) == np.where(scale > 0, 255, 0)).all()


@given(HEADS)
@quick
def test_storing_twice_changes_nothing(heads):
    stored, scale = maps.quantise(heads)
    again, _ = maps.quantise(maps.dequantise(stored, scale))
    normal = scale > 1e-30  # below it float32 itself has few levels
    np.testing.assert_array_equal(again[normal], stored[normal])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e-3])
def test_damaged_heads_are_refused(bad):
    heads = np.full((2, 3, 3), 0.1, np.float32)
    heads[1, 2, 0] = bad
    with pytest.raises(UserError, match="finite and non-negative"):
        maps.quantise(heads)


@given(HEADS, st.data())
@quick
def test_aggregation_is_maximum_mean_or_one_head(heads, drawn):
    index = drawn.draw(st.integers(0, len(heads) - 1))
    np.testing.assert_array_equal(maps.aggregate(heads, "max"), np.max(heads, 0))
    np.testing.assert_allclose(maps.aggregate(heads, "mean"), np.mean(heads, 0), rtol=1e-5)
    np.testing.assert_array_equal(maps.aggregate(heads, index), heads[index])
    np.testing.assert_array_equal(maps.aggregate(heads, str(index)), heads[index])


def test_normalised_heads_have_equal_say_and_a_dead_head_none():
    weak = np.array([[0.0, 0.01], [0.0, 0.0]], np.float32)
    strong = np.array([[3.0, 1.0], [1.0, 1.0]], np.float32)
    dead = np.full((2, 2), 0.5, np.float32)
    heads = np.stack([weak, strong, dead])
    np.testing.assert_allclose(maps.aggregate(heads, "max"), strong)
    np.testing.assert_allclose(maps.aggregate(heads, "max", True), [[1, 1], [0, 0]])
    np.testing.assert_allclose(maps.aggregate(heads, "mean", True), np.array([[1, 1], [0, 0]]) / 3)


@pytest.mark.parametrize("how", [3, -1, "3", "median", "-1"])
def test_a_head_that_is_not_there_names_the_count(how):
    with pytest.raises(UserError, match=r"from 0 to 2, since the map has 3 heads, found "):
        maps.aggregate(np.zeros((3, 2, 2), np.float32), how)


@given(MAPS, st.floats(0.1, 10))
@quick
def test_normalise_keeps_the_order_and_ignores_the_unit(attention, factor):
    normal = maps.normalise(attention)
    assert normal.dtype == np.float32 and normal.max() == 1
    if not has_content(attention):
        return
    assert normal.min() == 0
    order = np.argsort(attention, axis=None, kind="stable")
    assert (np.diff(normal.ravel()[order]) >= 0).all()
    scaled = (attention.astype(np.float64) * factor).astype(np.float32)
    np.testing.assert_allclose(maps.normalise(scaled), normal, atol=1e-5)
    np.testing.assert_allclose(maps.normalise(normal), normal, atol=1e-6)


@given(st.floats(2**-100, 1e4, width=32), st.integers(0, 99), st.floats(0, 1))
@quick
def test_a_constant_map_stored_or_not_becomes_ones(value, seed, noise):
    draws = np.random.default_rng(seed).random((2, 5, 4))
    heads = (value * (1 - noise / 255 * draws)).astype(np.float32)  # up to one stored step of noise
    assert (maps.normalise(heads[0]) == 1).all()
    assert (maps.attention_map(*maps.quantise(heads), (11, 9), maps.Reading(0)) == 255).all()


def test_two_stored_steps_are_content():
    heads = np.full((1, 4, 4), 255, np.uint8)
    heads[0, 0, 0] = 253
    attention = maps.attention_map(heads, np.ones(1, np.float32), (4, 4), maps.Reading())
    assert attention[0, 0] == 0 and attention.sum() == 15 * 255


@given(HEADS, SIZES, st.booleans())
@quick
def test_flat_is_the_mean_of_the_maximum_over_the_picture_in_every_part_of_it(heads, size, each):
    stored = maps.quantise(heads)
    normal = maps.normalise(maps.aggregate(maps.dequantise(*stored), "max", each)) * heads.any()
    attention = maps.attention_map(*stored, size, maps.Reading("flat", each), (1, 2, 3, 4))
    assert attention.shape == (3, 4, 1)
    assert np.ptp(attention) == 0
    assert abs(attention[0, 0, 0] - 255 * normal.mean(dtype=np.float64)) <= 0.501


def test_flat_has_the_diffused_fraction_of_the_photographs_own_map():
    """To half a stored step, as long as l has no clipping to do."""
    photo = np.ascontiguousarray(data.astronaut()[::4, ::4])
    stored = maps.quantise(edges(photo, (16, 16))[None])
    own, flat = (
        jnp.asarray(maps.attention_map(*stored, (128, 128), maps.Reading(how)) / 255)
        for how in ("max", "flat")
    )
    fractions = [float(diffused_fraction(a, 0.0)) for a in (own, flat)]
    assert 0.1 < fractions[0] < 0.5
    assert abs(fractions[0] - fractions[1]) < 0.6 / 255
    steps = np.asarray(diffused_steps(flat, 0.05, 100))
    assert np.ptp(steps) == 0 and abs(steps.flat[0] - 100 * (fractions[0] + 0.05)) < 1.2


@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=SIZES,
    how=st.sampled_from([*maps.AGGREGATES, "0"]),
    lower_bound=st.integers(0, 10_000).map(lambda n: n / 10_000),  # as tuned ones are rounded
    total=st.integers(1, 2000),
)
@quick
def test_without_attention_every_pixel_is_diffused_for_the_lower_bound(
    grid, size, how, lower_bound, total
):
    stored = maps.quantise(np.zeros((2, *grid), np.float32))
    attention = maps.attention_map(*stored, size, maps.Reading(how))
    assert attention.shape == (*size, 1) and attention.dtype == np.uint8
    assert (attention == 0).all()
    nothing = jnp.asarray(attention / 255)
    np.testing.assert_allclose(diffused_fraction(nothing, lower_bound), lower_bound, rtol=1e-5)
    steps = np.asarray(diffused_steps(nothing, lower_bound, total))
    assert np.ptp(steps) == 0 and abs(steps.flat[0] - total * lower_bound + 0.5) <= 0.50001


@given(hnp.arrays(int, (1, 6, 5), elements=st.integers(0, 8)), st.floats(0.1, 0.6))
@settings(deadline=None)
def test_a_fraction_is_the_mean_over_the_picture(heads, fraction):
    """Whatever the map, unless no power can give it that."""
    stored = maps.quantise(np.float32(heads) / 8)
    plain = maps.attention_map(*stored, (6, 5), maps.Reading()) / 255
    attention = maps.attention_map(*stored, (6, 5), maps.Reading(fraction=fraction)) / 255
    if plain.min() == 1:
        np.testing.assert_allclose(attention, fraction, atol=0.003)
    elif plain.max() == 0:
        assert attention.max() == 0
    else:
        assert attention.max() == pytest.approx(1)
        order = np.argsort(plain.ravel())
        assert (np.diff(attention.ravel()[order]) > -0.005).all()
        most, least = (plain > 0).mean(), (plain == 1).mean()
        if least + 0.05 < fraction < most - 0.25 and np.ptp(plain[plain > 0]) > 0.1:
            assert attention.mean() == pytest.approx(fraction, abs=0.02)


def test_a_power_keeps_the_maximum_and_changes_the_shape():
    heads = np.array([[[0.0, 0.25, 0.5, 1.0]]], np.float32)
    stored = maps.quantise(heads)
    attention = maps.attention_map(*stored, (1, 4), maps.Reading(power=2.0))[0, :, 0]
    np.testing.assert_allclose(attention, [0, 255 / 16, 255 / 4, 255], atol=1)


@given(HEADS, st.sampled_from(["max", "mean", 0]), st.booleans())
@quick
def test_every_map_spans_the_eight_bits_on_its_grid(heads, how, normalise_heads):
    stored = maps.quantise(heads)
    attention = maps.attention_map(*stored, heads.shape[1:], maps.Reading(how, normalise_heads))
    assert attention.shape == (*heads.shape[1:], 1) and attention.dtype == np.uint8
    assert attention.max() == (255 if heads.any() else 0)
    if has_content(maps.aggregate(maps.dequantise(*stored), how, normalise_heads)):
        assert attention.min() == 0
    else:
        assert attention.min() in (0, 255)


@given(HEADS, SIZES, st.data())
@quick
def test_a_part_has_the_values_that_it_has_in_the_whole(heads, size, data):
    stored = maps.quantise(heads)
    top, left = (data.draw(st.integers(0, extent - 1)) for extent in size)
    height = data.draw(st.integers(1, size[0] - top))
    width = data.draw(st.integers(1, size[1] - left))
    whole = maps.attention_map(*stored, size, maps.Reading()).astype(int)
    part = maps.attention_map(*stored, size, maps.Reading(), box=(top, left, height, width)).astype(
        int
    )
    assert np.abs(part - whole[top : top + height, left : left + width]).max() <= 1


@given(HEADS, SIZES, st.sampled_from([np.s_[::-1, :], np.s_[:, ::-1], np.s_[::-1, ::-1]]))
@quick
def test_maps_flip_with_the_heads(heads, size, flip):
    stored, scale = maps.quantise(heads)
    attention = maps.attention_map(stored, scale, size, maps.Reading()).astype(int)
    flipped = maps.attention_map(stored[(slice(None), *flip)], scale, size, maps.Reading()).astype(
        int
    )
    assert np.abs(flipped - attention[flip]).max() <= 1


@given(MAPS, SIZES)
@quick
def test_resizing_stays_in_range_and_keeps_the_size_it_has(attention, size):
    resized = maps.resize(attention, size)
    assert resized.shape == size and resized.dtype == np.float32
    assert resized.min() >= attention.min() and resized.max() <= attention.max()
    np.testing.assert_array_equal(maps.resize(attention, attention.shape), attention)


def test_resizing_is_keys_cubic_interpolation():
    """Each value is a sum of four samples at weights k(x), a = -1/2, at half-pixel centres."""

    def kernel(x):
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def weights(size, grid):
        centres = (np.arange(size) + 0.5) * grid / size - 0.5
        w = kernel(centres[:, None] - np.arange(grid))
        return w / w.sum(1, keepdims=True)

    attention = np.random.default_rng(5).random((7, 9)).astype(np.float32)
    expected = weights(32, 7) @ attention @ weights(45, 9).T
    assert expected.max() > attention.max()  # it does overshoot: the clip has work
    expected = expected.clip(attention.min(), attention.max())
    np.testing.assert_allclose(maps.resize(attention, (32, 45)), expected, atol=1e-6)


def test_a_peak_of_one_cell_reaches_the_top_and_its_ground_stays_at_zero():
    heads = np.zeros((1, 8, 8), np.float32)
    heads[0, 3, 5] = 0.02
    attention = maps.attention_map(*maps.quantise(heads), (64, 64), maps.Reading())[..., 0]
    row, column = np.unravel_index(attention.argmax(), attention.shape)
    assert row // 8 == 3 and column // 8 == 5
    assert (attention[:8] == 0).all() and (attention == 0).mean() > 0.8


def test_a_photograph_keeps_its_order_of_places():
    photo = np.ascontiguousarray(data.astronaut()[::4, ::4])
    heads = edges(photo, (16, 16))[None]
    attention = maps.attention_map(*maps.quantise(heads), (128, 128), maps.Reading())[..., 0]
    cells = attention.reshape(16, 8, 16, 8).mean((1, 3))
    assert np.corrcoef(cells.ravel(), heads.ravel())[0, 1] > 0.99
