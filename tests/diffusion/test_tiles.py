import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.diffusion.tiles import Tiles, cut, plan, put, take

SIZES = st.tuples(st.integers(8, 16), st.integers(0, 3), st.integers(0, 60), st.integers(0, 60))


def placement(tiles):
    return tiles.corners, tiles.cores, tiles.ramps


@settings(deadline=None)
@given(SIZES, st.integers(1, 2), st.sampled_from([1, 4]))
def test_cores_make_up_the_frames_and_halos_are_as_wide_as_asked_for(sizes, count, scale):
    size, halo, more_rows, more_columns = sizes
    height, width = size + more_rows, size + more_columns
    tiles = cut(count, (height, width), (size, size), halo).times(scale)
    covered = np.zeros((count, scale * height, scale * width), int)
    for (picture, top, left), (a, b, c, d) in zip(tiles.corners, tiles.cores, strict=True):
        assert 0 <= top <= scale * (height - size) and 0 <= left <= scale * (width - size)
        covered[picture, top + a : top + c, left + b : left + d] += 1
        for begin, end, corner, length in ((a, c, top, height), (b, d, left, width)):
            assert begin >= scale * halo or corner + begin == 0
            assert scale * (size - halo) >= end or corner + end == scale * length
    assert (covered == 1).all()


@settings(deadline=None)
@given(SIZES)
def test_no_cut_of_fewer_tiles_has_that_halo(sizes):
    size, halo, more, _ = sizes
    tiles = cut(1, (size + more, size), (size, size), halo)
    assert size + (len(tiles) - 1) * (size - 2 * halo) >= size + more
    assert len(tiles) == 1 or size + (len(tiles) - 2) * (size - 2 * halo) < size + more


def test_a_frame_of_one_tile_needs_no_halo():
    tiles = cut(1, (6, 6), (6, 6), 3)
    assert tiles.cores.tolist() == [[0, 0, 6, 6]]


def test_what_is_taken_and_put_back_is_the_frame():
    frames = jnp.asarray(np.random.default_rng(0).normal(size=(2, 21, 30, 3)), jnp.float32)
    tiles = cut(2, (21, 30), (8, 8), 2)
    squares = take(frames, tiles.corners, tiles.size)
    np.testing.assert_array_equal(squares[7], frames[0, 3:11, :8])  # the first of the second row
    made = put(jnp.zeros_like(frames), squares, tiles.corners, tiles.cores, tiles.ramps)
    np.testing.assert_array_equal(made, frames)


@pytest.mark.parametrize(
    ("size", "halo", "more_rows", "more_columns", "ramp"),
    [(16, 3, 60, 41, 3), (16, 3, 1, 17, 2), (9, 2, 30, 0, 1), (8, 3, 11, 5, 3)],
)
def test_the_shares_of_tiles_are_one_in_all(size, halo, more_rows, more_columns, ramp):
    frame = size + more_rows, size + more_columns
    tiles = cut(2, frame, (size, size), halo, ramp).times(2)
    ones = jnp.ones((len(tiles), 2 * size, 2 * size, 1))
    made = put(jnp.zeros((2, *(2 * n for n in frame), 1)), ones, *placement(tiles))
    np.testing.assert_allclose(made, 1.0, atol=1e-6)


def test_over_a_ramp_one_tile_passes_into_the_next():
    tiles = cut(1, (8, 24), (8, 16), 4, 2)
    assert tiles.cores[:, [1, 3]].tolist() == [[0, 12], [4, 16]]
    assert tiles.ramps.tolist() == [[0, 0, 0, 2], [0, 2, 0, 0]]
    squares = jnp.stack([jnp.zeros((8, 16, 1)), jnp.ones((8, 16, 1))])
    made = put(jnp.zeros((1, 8, 24, 1)), squares, *placement(tiles))[0, 3, :, 0]
    assert made[:10].max() == 0 and made[14:].min() == 1
    np.testing.assert_allclose(made[10:14], [0.125, 0.375, 0.625, 0.875])


def test_of_tiles_that_fill_a_batch_nothing_is_kept():
    tiles = cut(1, (8, 14), (8, 8), 1, 1)
    filled = tiles.filled(5)
    assert len(filled) == 5 and (filled.corners[2:] == tiles.corners[1]).all()
    ones = jnp.ones((5, 8, 8, 1))
    made = put(jnp.zeros((1, 8, 14, 1)), ones, *placement(filled))
    np.testing.assert_array_equal(made, 1.0)


def test_a_tile_is_needed_for_the_ramps_around_its_core():
    steps = np.zeros((1, 8, 14, 1), np.int32)
    steps[0, 3, 7], steps[0, 0, 1] = 9, 4  # a pixel behind the border of the cores
    tiles = cut(1, (8, 14), (8, 8), 1)
    assert plan(tiles, steps, 10, sparse=True).steps.tolist() == [9, 4]
    with_ramps = cut(1, (8, 14), (8, 8), 1, 1)
    assert plan(with_ramps, steps, 10, sparse=True).steps.tolist() == [9, 9]


def test_a_tile_is_needed_from_the_first_step_of_its_core():
    steps = np.zeros((1, 8, 14, 1), np.int32)
    steps[0, 3, 6], steps[0, 0, 13] = 9, 4  # the first lies in both tiles, and in one core
    tiles = cut(1, (8, 14), (8, 8), 1)
    assert tiles.corners[:, 2].tolist() == [0, 6] and tiles.cores[0].tolist() == [0, 0, 8, 7]
    work = plan(tiles, steps, 10, sparse=True)
    assert work.steps.tolist() == [9, 4] and work.tiles.corners[:, 2].tolist() == [0, 6]
    assert (work.evaluations, work.dense_evaluations) == (13, 20)
    dense = plan(tiles, steps, 10, sparse=False)
    np.testing.assert_array_equal(dense.tiles.corners, work.tiles.corners)
    assert dense.evaluations == dense.dense_evaluations == 20
    turned = plan(tiles, steps[:, :, ::-1], 10, sparse=True)  # now the second comes first
    assert turned.steps.tolist() == [9, 4] and turned.tiles.corners[:, 2].tolist() == [6, 0]


def test_a_part_of_the_tiles_is_tiles():
    tiles = cut(1, (20, 20), (8, 8), 1)
    part = tiles[np.array([3, 3, 0])]
    assert isinstance(part, Tiles) and len(part) == 3
    assert part.corners.tolist() == [tiles.corners[i].tolist() for i in (3, 3, 0)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tiles_keep_their_type_of_number(dtype):
    frames = np.arange(2 * 9 * 9, dtype=dtype).reshape(2, 9, 9, 1)
    tiles = cut(2, (9, 9), (4, 4), 1)
    taken = take(frames, tiles.corners, tiles.size)
    assert taken.dtype == dtype and taken.shape == (len(tiles), 4, 4, 1)
