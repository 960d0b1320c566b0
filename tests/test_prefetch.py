"""Results come in order, ahead of time, and stop with whoever takes them."""

import itertools
import threading
import time

import pytest

from yoda_jax.errors import UserError
from yoda_jax.prefetch import prefetch


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_keeps_the_order_whatever_takes_long(depth):
    def slow(step):
        time.sleep((7 * step % 5) / 500)
        return step

    assert list(prefetch(slow, iter(range(20)), depth)) == list(range(20))


def test_prefetch_works_ahead_in_parallel_but_not_further_than_its_depth():
    meeting, started = threading.Barrier(2, timeout=10), []

    def meet(step):
        started.append(step)
        if step < 2:
            meeting.wait()  # passes only where steps 0 and 1 are made at once
        return step

    stream = prefetch(meet, itertools.count(), 2)
    for step in range(5):
        assert next(stream) == step
        time.sleep(0.01)
        assert max(started) <= step + 2
    assert max(started) == 6
    stream.close()


def test_prefetch_passes_exceptions_on_in_their_turn():
    def fail(step):
        if step == 3:
            raise UserError("step 3")
        return step

    threads = threading.active_count()
    stream = prefetch(fail, itertools.count(), 2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="step 3"):
        next(stream)
    assert threading.active_count() == threads


@pytest.mark.parametrize("consumed", [1, 3])
def test_prefetch_stops_with_its_consumer(consumed):
    made = []

    def record(step):
        time.sleep(0.005)
        made.append(step)
        return step

    threads = threading.active_count()
    stream = prefetch(record, itertools.count(), 3)
    for _ in range(consumed):
        next(stream)
    stream.close()
    assert threading.active_count() == threads
    count = len(made)
    time.sleep(0.03)
    assert len(made) == count <= consumed + 3
