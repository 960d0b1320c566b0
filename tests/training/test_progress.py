"""What a run says of its speed: steps alone, whatever is done between them."""

import time

import jax.numpy as jnp
import pytest
from clu import metric_writers

from yoda_jax.training import machine
from yoda_jax.training.progress import Plan, Progress

STEP, APART, WAIT = 0.02, 1.0, 0.01
FLOPS = 5e9


class Board(metric_writers.MultiWriter):
    """Keeps the scalars that it is given."""

    def __init__(self):
        super().__init__([])
        self.found = {}

    def write_scalars(self, step, scalars):
        self.found[step] = scalars


def metrics():
    return {"loss": jnp.float32(0.5), "grad_norm": jnp.float32(1), "y0_offset": jnp.zeros(3)}


def train(workdir):
    """Ten steps, with something done apart after the fourth; the figures by step."""
    board = Board()
    plan = Plan(10, 5, 0, 0, profile_at=0, warn_from=100, offset_warning=0.1)
    progress = Progress(plan, board, str(workdir), FLOPS)

    def batches():
        while True:
            time.sleep(WAIT)
            yield {}

    stream = batches()
    for step in range(10):
        progress.next_batch(stream)
        time.sleep(STEP)
        progress.after_dispatch(step + 1, metrics())
        if step == 3:
            with progress.apart("evaluation"):
                time.sleep(APART)
    progress.finish()
    return board.found, progress


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"))


def test_what_is_done_apart_takes_no_time_of_steps(trained):
    """Five steps of 30 ms and a second apart are 33 steps a second, and not 4."""
    found, progress = trained
    assert sorted(found) == [5, 10]
    for scalars in found.values():
        assert 8 < scalars["steps_per_sec"] < 1 / STEP
    assert APART <= progress.totals["evaluation"] < 2 * APART


def test_waiting_is_a_share_of_the_steps_time(trained):
    found, progress = trained
    for scalars in found.values():
        assert 0.05 < scalars["input_wait"] < 0.7
    assert WAIT * 9 <= progress.totals["waited for input"] < APART


def test_a_known_chip_has_a_utilisation(trained, tmp_path, monkeypatch):
    found, _ = trained
    assert not {"flops_utilisation", "memory_gib"} & found[10].keys()
    for scalars in found.values():
        reached = FLOPS * scalars["steps_per_sec"] / 1e12
        assert scalars["tflops_per_device"] == pytest.approx(reached)
    monkeypatch.setitem(machine.CHIPS, "cpu", machine.Chip(1e12, 1e9, 1))
    found, _ = train(tmp_path)
    for scalars in found.values():
        assert scalars["flops_utilisation"] == pytest.approx(scalars["tflops_per_device"])
