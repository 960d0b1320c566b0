"""The steps compiled for TPUs that are not there."""

import re

import jax
import jax.numpy as jnp
import pytest
from command_line import TINY, run

from yoda_jax.errors import UserError
from yoda_jax.jobs.compile import CHIPS, _devices, _report
from yoda_jax.training import sharding


@pytest.fixture(scope="module")
def reduced():
    """A sum of a matrix of 8 MB over eight devices, which each hold an eighth of its terms."""
    mesh = sharding.make_mesh()
    rows, whole = sharding.by_rows(mesh), sharding.replicated(mesh)
    given = jax.ShapeDtypeStruct((8, 1024, 2048), jnp.float32, sharding=rows)
    return jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(given).compile()


def test_a_report_says_what_bounds_the_step(reduced):
    report = _report("sum", reduced, CHIPS["TPU v5 lite"])
    assert "1 all-reduce of 8.4 MB" in report and "memory bounds it" in report
    held = float(re.search(r"memory +([\d.]+) GiB state", report)[1])
    assert held == pytest.approx(4 * 1024 * 2048 / 2**30, abs=0.01)


def test_an_unknown_slice_is_one_sentence():
    result = run("--config=configs/demo.py", *TINY, "--mode=compile", "--topology=nothing")
    assert result.returncode == 2
    assert "--topology must be a slice as v5e:4x4" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_both_steps_are_compiled_for_a_slice():
    pytest.importorskip("libtpu", reason="libtpu is missing, extra [tpu]")
    result = run("--config=configs/demo.py", *TINY, "--mode=compile", "--topology=v5e:2x2")
    assert result.returncode == 0, result.stderr
    assert "v5e:2x2: 4 of TPU v5 lite" in result.stdout
    assert result.stdout.count("bounds it") == 2 and "all-reduce" in result.stdout


def test_a_slice_of_cores_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="v4:2x2x4, which JAX describes by cores; name one of v5e"):
        _devices("v4:2x2x4")
