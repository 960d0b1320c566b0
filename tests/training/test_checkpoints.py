"""Saving, finding and restoring, on other numbers of devices and with other shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from yoda_jax.errors import UserError
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints


def abstract(state, mesh):
    shapes = jax.eval_shape(lambda: state)
    where = sharding.state_shardings(mesh, shapes, "replicate")
    return jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_state, make_step, batch):
    """A folder with checkpoints of steps 1 to 3 (two kept), and the last state."""
    folder = tmp_path_factory.mktemp("checkpoints")
    mesh = sharding.make_mesh()
    state = jax.device_put(make_state(), sharding.replicated(mesh))
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 3):
            state, _ = make_step()(state, sharding.place(mesh, batch), jax.random.key(0))
            checkpoints.save(state, step, {"seed": 5})
    return folder, state


def test_the_newest_are_kept_and_no_other(saved):
    folder, _ = saved
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["2", "3"]
    assert Checkpoints(folder).latest() == 3


@pytest.mark.parametrize("devices", [1, 8])
def test_restoring_is_bit_equal_on_any_number_of_devices(saved, devices):
    folder, state = saved
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    restored = Checkpoints(folder).restore(abstract(state, mesh))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(a.sharding.device_set) == devices


def test_weights_are_the_average(saved):
    folder, state = saved
    weights = Checkpoints(folder).restore_weights(abstract(state, sharding.make_mesh()).ema)
    for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_shapes_are_refused_by_name(saved):
    folder, state = saved
    wide = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((*s.shape[:-1], 2 * s.shape[-1]), s.dtype) if s.shape else s,
        abstract(state, sharding.make_mesh()),
    )
    with pytest.raises(UserError, match=r"step 3 .*last\.bias is \(3,\) there and \(6,\) here"):
        Checkpoints(folder).restore_weights(wide.ema)


def test_a_state_without_average_is_not_read_as_one_with(saved):
    folder, state = saved
    plain = dataclasses.replace(abstract(state, sharding.make_mesh()), ema=None)
    with pytest.raises(UserError, match="absent here"):
        Checkpoints(folder).restore(plain)


def test_without_average_the_parameters_are_saved_once(tmp_path, make_state):
    state = dataclasses.replace(make_state(), ema=None, step=jnp.int32(4))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 4, {})
    restored = Checkpoints(tmp_path).restore(abstract(state, sharding.make_mesh()))
    assert restored.ema is None and int(restored.step) == 4
    for a, b in zip(jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_checkpoint_is_said_so(tmp_path, make_state):
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "empty").restore(abstract(make_state(), sharding.make_mesh()))
