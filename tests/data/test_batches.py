"""Batches are a pure function of (seed, step) and keep hr, lr and attention together."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.attention.maps import Reading, attention_map
from yoda_jax.data.batches import Batches, epoch_order, maps, spread, whole
from yoda_jax.errors import UserError
from yoda_jax.prefetch import prefetch

SCALE, HEIGHT, WIDTH = 4, 32, 48
WHOLE = (64, 96)  # of the pictures that the examples are cut from


def marked(i, height=HEIGHT, width=WIDTH):
    """A tile whose pixels say where they lie in it and which example it is: (y, x, i)."""
    y, x = np.mgrid[:height, :width]
    hr = np.stack([y, x, np.full_like(y, i)], -1).astype(np.uint8)
    heads = np.random.default_rng(i).integers(0, 256, (2, 5, 7), np.uint8)
    heads[:, 0, 0], heads[:, -1, -1] = 0, 255
    return {
        "name": str(i),
        "hr": hr,
        "lr": hr[::SCALE, ::SCALE],
        "attention": heads,
        "attention_scale": np.array([1, 2], np.float32),
        "place": np.array([8 * (i % 3), 16 * (i % 2), *WHOLE], np.int32),
    }


EXAMPLES = [marked(i) for i in range(10)]


def make(examples=EXAMPLES, **settings):
    settings = {"batch_size": 4, "seed": 0, "reading": Reading(), "threads": 2, **settings}
    return Batches(examples, **settings)


def ids(batch):
    return batch["hr"][:, 0, 0, 2].tolist()


def flipped(batch):
    return batch["hr"][:, 0, 0, 1] > batch["hr"][:, 0, 1, 1]


def corners(batch):
    return [(int(hr[..., 0].min()), int(hr[..., 1].min())) for hr in batch["hr"]]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype == np.uint8
        np.testing.assert_array_equal(a[key], b[key])


def assert_aligned(batch, reading=Reading()):  # noqa: B008
    """lr and attention show the same places of the same example as hr's marks."""
    for hr, lr, attention in zip(batch["hr"], batch["lr"], batch["attention"], strict=True):
        height, width = hr.shape[:2]
        blocks = hr.reshape(height // SCALE, SCALE, width // SCALE, SCALE, 3)
        np.testing.assert_array_equal(lr, blocks.min(axis=(1, 3)))
        example = EXAMPLES[int(hr[0, 0, 2])]
        top, left = example["place"][:2]
        on_picture = attention_map(example["attention"], example["attention_scale"], WHOLE, reading)
        there = on_picture[top + hr[..., 0], left + hr[..., 1]]
        # Pillow places the rectangle's weights in another rounding.
        np.testing.assert_allclose(attention.astype(int), there.astype(int), atol=1)
        assert np.ptp(attention) > 20


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 10**9), st.sampled_from([0, 16]))
def test_a_pure_function_of_seed_and_step(seed, step, patch):
    """Resuming at a step needs nothing but the step."""
    used = make(seed=seed, patch=patch)
    used(step + 1), used(0)
    assert_equal(used(step), make(seed=seed, patch=patch, threads=1)(step))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 10, 20])
def test_each_epoch_visits_every_example_once(batch_size):
    batches = make(batch_size=batch_size)
    visited = [i for step in range(60 // batch_size) for i in ids(batches(step))]
    epochs = [tuple(visited[i : i + 10]) for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 6


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(0, 50))
def test_batches_continue_the_sequence_over_epochs(batch_size, step):
    """Also where a batch is larger than the data set, or the set is no multiple of it."""
    places = range(step * batch_size, (step + 1) * batch_size)
    expected = [int(epoch_order(0, p // 10, 10)[p % 10]) for p in places]
    assert ids(make(batch_size=batch_size)(step)) == expected


def test_batch_larger_than_the_data_set_draws_its_repetitions_anew():
    batches = make(batch_size=25, patch=8)
    drawn = collections.Counter(ids(batches(0)))
    assert sorted(drawn) == list(range(10)) and set(drawn.values()) == {2, 3}
    cuts = {
        (i, c, f)
        for b in (batches(0), batches(1))
        for i, c, f in zip(ids(b), corners(b), flipped(b), strict=True)
    }
    assert len(cuts) > 40


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("patch", [0, 16])
def test_processes_together_make_the_batch_of_one(count, patch):
    alone = make(batch_size=8, patch=patch)
    parts = [
        make(batch_size=8, patch=patch, process_index=i, process_count=count) for i in range(count)
    ]
    for step in (0, 1, 7):
        shares = [part(step) for part in parts]
        assert [len(share["hr"]) for share in shares] == [8 // count] * count
        together = {k: np.concatenate([share[k] for share in shares]) for k in shares[0]}
        assert_equal(together, alone(step))
    first = [set(ids(part(0))) for part in parts]  # eight of the first epoch's ten examples
    assert sum(len(part) for part in first) == len(set().union(*first)) == 8


@pytest.mark.parametrize("patch", [0, 16])
@pytest.mark.parametrize("reading", [Reading(), Reading("mean", True), Reading("1", fraction=0.3)])
def test_flips_and_crops_move_everything_together(patch, reading):
    batches = make(batch_size=20, patch=patch, reading=reading)
    batch = batches(0)
    height, width = (patch, patch) if patch else (HEIGHT, WIDTH)
    assert batch["hr"].shape == (20, height, width, 3)
    assert batch["lr"].shape == (20, height // SCALE, width // SCALE, 3)
    assert batch["attention"].shape == (20, height, width, 1)
    assert 0 < flipped(batch).sum() < 20
    assert_aligned(batch, reading)


def test_crops_reach_every_place_alike_and_flips_half():
    batch = make(batch_size=3500, patch=16, threads=1)(0)
    counts = collections.Counter(corners(batch))
    rows, columns = range(0, HEIGHT - 15, SCALE), range(0, WIDTH - 15, SCALE)
    assert set(counts) == set(itertools.product(rows, columns))
    expected = 3500 / len(counts)  # 77.8 of deviation 8.7
    assert max(abs(n - expected) for n in counts.values()) < 4.5 * expected**0.5
    assert abs(flipped(batch).mean() - 0.5) < 0.04


def test_no_flips_unless_wanted():
    assert not flipped(make(batch_size=40, flip=False)(3)).any()


def test_seeds_differ_in_order_flips_and_crops():
    a, b = (make(batch_size=20, patch=16, seed=seed)(0) for seed in (0, 1))
    assert ids(a) != ids(b)
    assert (flipped(a) != flipped(b)).any()
    assert corners(a) != corners(b)


def test_whole_gives_the_examples_as_they_are():
    batch = whole(EXAMPLES, [7, 2, 2], Reading())
    np.testing.assert_array_equal(batch["hr"], [EXAMPLES[i]["hr"] for i in (7, 2, 2)])
    np.testing.assert_array_equal(batch["lr"], [EXAMPLES[i]["lr"] for i in (7, 2, 2)])
    assert_aligned(batch)


@pytest.mark.parametrize("patch", [36, 10, 1000])
def test_patch_that_does_not_fit_names_the_field(patch):
    with pytest.raises(UserError, match=rf"data\.patch={patch} .*scale 4.*48x32"):
        make(patch=patch)(0)


def test_pictures_of_two_sizes_need_a_patch():
    mixed = [marked(0), marked(1, 40, 48)]
    with pytest.raises(UserError, match=r"\(32, 48\), \(40, 48\).*data\.patch"):
        make(mixed)(0)
    with pytest.raises(UserError, match=r"data\.patch"):
        whole(mixed, [0, 1], Reading())
    assert make(mixed, patch=32)(0)["hr"].shape == (4, 32, 32, 3)


def test_batch_must_be_shared_out_evenly():
    with pytest.raises(UserError, match=r"train\.batch_size=6 .*4 processes"):
        make(batch_size=6, process_count=4)


def test_error_of_reading_an_example_reaches_the_caller():
    class Damaged(list):
        def __getitem__(self, index):
            raise UserError("Record 3 is damaged.")

    with pytest.raises(UserError, match="Record 3"):
        make(Damaged(EXAMPLES))(0)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_and_batches_made_ahead_change_no_bit(threads):
    steps = range(6)
    one = [make(batch_size=7, patch=16, threads=1)(step) for step in steps]
    ahead = prefetch(make(batch_size=7, patch=16, threads=threads), steps, threads)
    for expected, found in zip(one, ahead, strict=True):
        assert_equal(found, expected)


@pytest.mark.parametrize(("count", "length"), [(3, 9), (8, 2), (1, 5), (4, 4)])
def test_spread_takes_the_centres_of_equal_stretches(count, length):
    found = spread(count, length)
    assert len(found) == min(count, length) == len(set(found))
    assert found[0] == length - 1 - found[-1] or length % len(found) or len(found) % 2 == 0
    assert found == sorted(found) and set(found) <= set(range(length))


def test_maps_are_those_of_the_batches():
    indices = [7, 0, 3]
    for reading in (Reading(), Reading(1, True)):
        expected = whole(EXAMPLES, indices, reading)["attention"]
        np.testing.assert_array_equal(maps(EXAMPLES, indices, reading), expected)
