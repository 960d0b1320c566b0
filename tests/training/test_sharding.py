"""Where state and batches lie."""

import dataclasses
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from yoda_jax.errors import UserError
from yoda_jax.sampling import sample_rows
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import create, make_optimizer
from yoda_jax.training.step import make_train_step


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


def test_what_fsdp_cuts_and_what_it_copies_is_told_once():
    code = (
        "import jax, jax.numpy as jnp; from absl import logging as absl_logging;"
        "from yoda_jax.training import sharding; absl_logging.set_verbosity('info');"
        "shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1024, 1280), (9,))];"
        "[sharding.state_shardings(sharding.make_mesh(), shapes, 'fsdp') for _ in range(2)];"
        "sharding.state_shardings(sharding.make_mesh(), shapes, 'replicate')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told = [line for line in done.stderr.splitlines() if "fsdp" in line]
    assert len(told) == 1
    assert told[0].endswith("5.0 MiB of the state cut over 2 devices, 0.0 MiB copied to each")


def test_rows_are_shared_out_in_order():
    mesh = sharding.make_mesh()
    rows = {"x": np.arange(32, dtype=np.uint8).reshape(16, 2)}
    placed = sharding.share_out(mesh, rows)["x"]
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


def devices(*batch_sizes, **environment):
    code = (
        "import jax; from yoda_jax.training import sharding;"
        f"sharding.allowed_cores = lambda: {environment.pop('cores', 2)};"
        f"sharding.use_all_cpu_cores({batch_sizes}); print(jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("cores", "batch_sizes", "wanted"),
    [(12, (12, 32), 4), (16, (64, 8), 8), (96, (256, 256), 8), (6, (16, 4), 4), (2, (7, 7), 1)],
)
def test_a_cpu_becomes_as_many_devices_as_cores_and_batches_allow(cores, batch_sizes, wanted):
    assert devices(*batch_sizes, cores=cores) == wanted


def test_the_users_number_of_cpu_devices_stays():
    assert devices(16, 16, cores=2, JAX_NUM_CPU_DEVICES="3") == 3


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"cpu.max": "150000 50000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_a_containers_quota_bounds_the_cores(tmp_path, monkeypatch, files, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert sharding.allowed_cores(str(tmp_path)) == wanted


class Wide(nn.Module):
    """A network with the interface of all networks and one kernel large enough to be cut."""

    continuous_level = True

    def setup(self):
        self.layers = nn.Dense(512), nn.Dense(512), nn.Dense(3)

    def encode(self, lr):
        return lr[..., :0]

    def condition(self, encoded, lr_up):
        return lr_up

    def __call__(self, z, level, condition, train=False):
        told = jnp.broadcast_to(level[:, None, None, None], z[..., :1].shape)
        x = jnp.concatenate([z, condition, told], -1)
        with jax.numpy_rank_promotion("allow"):  # flax's own layers promote their bias
            for layer in self.layers[:-1]:
                x = nn.swish(layer(x))
            return self.layers[-1](x)


def placed(init, mesh, strategy):
    """The shapes of a state with the shardings of a strategy."""
    shapes = jax.eval_shape(init)
    where = sharding.state_shardings(mesh, shapes, strategy)
    return jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )


def test_fsdp_trains_as_replicated_and_its_checkpoints_move_between_devices(
    tmp_path, tiny_yoda, batch
):
    method = dataclasses.replace(tiny_yoda, network=Wide())
    optimizer = make_optimizer(optax.constant_schedule(1e-3), 0.0, 1.0)
    meshes = {n: Mesh(np.array(jax.devices()[:n]), ("data",)) for n in (1, 2, 8)}

    def init():
        return create(method.init(jax.random.key(0), 4), optimizer, ema=True)

    states = {}
    for strategy in ("replicate", "fsdp"):
        where = jax.tree.map(lambda s: s.sharding, placed(init, meshes[8], strategy))
        step = jax.jit(
            make_train_step(method.loss, optimizer, 0.9),
            in_shardings=(where, sharding.by_rows(meshes[8]), sharding.replicated(meshes[8])),
            out_shardings=(where, sharding.replicated(meshes[8])),
            donate_argnums=0,
        )
        state = jax.jit(init, out_shardings=where)()
        rows = sharding.share_out(meshes[8], batch)
        states[strategy], _ = step(state, rows, jax.random.key(1))
    kernel = states["fsdp"].params["layers_1"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(64, 512)}
    for a, b in zip(*map(jax.tree.leaves, states.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

    state = states["fsdp"]
    for devices in (8, 2, 1, 8):  # each goes on from what the one before has written
        with Checkpoints(tmp_path / "run", keep=9) as checkpoints:
            if checkpoints.latest():
                state = checkpoints.restore(placed(init, meshes[devices], "fsdp"))
            kernel = state.opt_state[1].mu["layers_1"]["kernel"]
            assert {s.data.shape for s in kernel.addressable_shards} == {(512 // devices, 512)}
            checkpoints.save(state, (checkpoints.latest() or 0) + 1, {})
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states["fsdp"]), strict=True):
        np.testing.assert_array_equal(a, b)

    weights = Checkpoints(tmp_path / "run").restore_weights(
        placed(init, meshes[8], "replicate").params
    )
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(weights))
    inputs = {name: batch[name][:8] for name in ("lr", "attention")}
    pictures = [
        sample_rows(method, meshes[8], w, np.arange(8), inputs, 0)
        for w in (weights, states["replicate"].ema)
    ]
    assert (pictures[0] == pictures[1]).mean() > 0.999  # rounding to 8 bits
