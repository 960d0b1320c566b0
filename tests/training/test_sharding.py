"""Where state and batches lie."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.errors import UserError
from yoda_jax.training import sharding


def test_fsdp_cuts_large_tensors_along_their_largest_divisible_axis():
    mesh = sharding.make_mesh()
    shapes = {
        "large": jax.ShapeDtypeStruct((3, 3, 512, 1024), jnp.float32),
        "odd": jax.ShapeDtypeStruct((1025, 513), jnp.float32),
        "small": jax.ShapeDtypeStruct((1024,), jnp.float32),
    }
    specs = {k: s.spec for k, s in sharding.state_shardings(mesh, shapes, "fsdp").items()}
    assert specs["large"] == jax.P(None, None, None, "data")
    assert specs["odd"] == specs["small"] == jax.P()
    replicated = sharding.state_shardings(mesh, shapes, "replicate")
    assert all(s.is_fully_replicated for s in replicated.values())


def test_place_shares_rows_out_in_order():
    mesh = sharding.make_mesh()
    rows = {"x": np.arange(32, dtype=np.uint8).reshape(16, 2)}
    placed = sharding.place(mesh, rows)["x"]
    np.testing.assert_array_equal(placed, rows["x"])
    assert placed.dtype == jnp.uint8 and len(placed.addressable_shards) == 8
    assert {s.data.shape for s in placed.addressable_shards} == {(2, 2)}


def test_a_batch_that_cannot_be_shared_out_is_refused():
    mesh = sharding.make_mesh()
    sharding.check_batch(mesh, "train.batch_size", 32, 4)
    with pytest.raises(UserError, match=r"train\.batch_size=20 .* divisible by 8"):
        sharding.check_batch(mesh, "train.batch_size", 20)
    with pytest.raises(UserError, match=r"train\.accumulate=3"):
        sharding.check_batch(mesh, "train.batch_size", 32, 3)


@pytest.mark.parametrize(("batch", "wanted"), [(16, None), (7, 1)])
def test_a_cpu_becomes_as_many_devices_as_cores_and_batch_allow(batch, wanted):
    code = (
        "import jax; from yoda_jax.training.sharding import use_all_cpu_cores;"
        f"use_all_cpu_cores({batch}); print(jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    cores = len(os.sched_getaffinity(0))
    expected = wanted or max(n for n in range(1, cores + 1) if batch % n == 0)
    if batch == 7:
        expected = 7 if cores >= 7 else 1
    assert int(done.stdout) == expected
