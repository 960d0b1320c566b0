"""Saving, finding and restoring, on other numbers of devices, of other optimizers and shapes."""

import dataclasses
import math
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from yoda_jax.errors import UserError
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import create, make_optimizer
from yoda_jax.training.step import make_train_step

PARAMS = {
    "encoder": {"w": jnp.full((2, 3), 0.5)},
    "net": {"b": jnp.zeros(3), "w": jnp.ones((3, 4))},
}
GRADS = jax.tree.map(lambda p: jnp.linspace(-1.0, 2.0, p.size).reshape(p.shape), PARAMS)
SCHEDULE = optax.constant_schedule(1e-2)
FIELDS = [(0.0, 0.0), (0.01, 0.0), (0.0, 0.5), (0.01, 0.5)]


def abstract(state, mesh=None, strategy="replicate"):
    shapes = jax.eval_shape(lambda: state)
    where = sharding.state_shardings(mesh or sharding.make_mesh(), shapes, strategy)
    return jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def after_steps(optimizer, count=2, ema=True, state=None):
    """A state after some steps of an optimizer, on one device."""
    state = state or create(PARAMS, optimizer, ema)
    for _ in range(count):
        updates, opt_state = optimizer.update(GRADS, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
    return state


def write(folder, *states, **options):
    with Checkpoints(folder, keep=len(states), **options) as checkpoints:
        for state in states:
            checkpoints.save(state, int(state.step), {"seed": 5, "model": {"features": 8}})


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_state, make_step, batch):
    """A folder with checkpoints of steps 1 to 3 (two kept), and the last state."""
    folder = tmp_path_factory.mktemp("checkpoints")
    mesh = sharding.make_mesh()
    state = jax.device_put(make_state(), sharding.replicated(mesh))
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 3):
            state, _ = make_step()(state, sharding.share_out(mesh, batch), jax.random.key(0))
            checkpoints.save(state, step, {"seed": step, "model": {"features": 16}})
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
    assert_same(restored, state)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}


def test_weights_are_the_average(saved):
    folder, state = saved
    assert_same(Checkpoints(folder).restore_weights(abstract(state).ema), state.ema)


def test_an_older_checkpoint_is_taken_by_its_step(saved):
    folder, state = saved
    checkpoints = Checkpoints(folder)
    assert (checkpoints.config()["seed"], checkpoints.config(2)["seed"]) == (3, 2)
    older = checkpoints.restore_weights(abstract(state).ema, step=2)
    assert not np.array_equal(older["last"]["kernel"], state.ema["last"]["kernel"])
    for take in (checkpoints.config, lambda s: checkpoints.restore_weights(abstract(state).ema, s)):
        with pytest.raises(UserError, match=r"of step 1, found those of steps 2, 3; choose one"):
            take(1)


def test_other_shapes_are_refused_by_name_with_the_fields_of_that_run(saved):
    folder, state = saved
    wide = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((*s.shape[:-1], 2 * s.shape[-1]), s.dtype) if s.shape else s,
        abstract(state),
    )
    with pytest.raises(
        UserError, match=r"step 3 .*last\.bias is \(3,\) there and \(6,\) here"
    ) as e:
        Checkpoints(folder).restore_weights(wide.ema)
    assert "--config.model.features=16" in str(e.value)
    with pytest.raises(UserError, match=r"opt_state\.mu\.last\.bias is \(3,\) there and \(6,\)"):
        Checkpoints(folder).restore(wide)


def test_no_checkpoint_is_said_so(tmp_path, make_state):
    with pytest.raises(UserError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "empty").restore(abstract(make_state()))
    assert not (tmp_path / "empty").exists()
    assert Checkpoints(tmp_path).latest() is None


def earlier_optimizer(weight_decay, clip_norm, frozen):
    """What make_optimizer was when its structure depended on the fields."""
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts.append(
        optax.adamw(SCHEDULE, weight_decay=weight_decay) if weight_decay else optax.adam(SCHEDULE)
    )
    if not frozen:
        return optax.chain(*parts)

    def labels(params):
        return {k: jax.tree.map(lambda _, k=k: k in frozen, v) for k, v in params.items()}

    return optax.partition({False: optax.chain(*parts), True: optax.set_to_zero()}, labels)


@pytest.mark.parametrize("frozen", [(), ("encoder",)])
@pytest.mark.parametrize(("weight_decay", "clip_norm"), FIELDS)
def test_runs_of_earlier_optimizers_go_on_as_they_would_have(
    tmp_path, weight_decay, clip_norm, frozen
):
    earlier = earlier_optimizer(weight_decay, clip_norm, frozen)
    now = make_optimizer(SCHEDULE, weight_decay, clip_norm, frozen)
    state = after_steps(earlier)
    write(tmp_path, state)
    restored = Checkpoints(tmp_path).restore(abstract(create(PARAMS, now, ema=True)))
    expected = after_steps(earlier, state=state)
    found = after_steps(now, state=restored)
    assert int(found.step) == 4
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("frozen", [(), ("encoder",)])
def test_clipping_and_decay_come_and_go_within_a_run(tmp_path, frozen):
    state = after_steps(make_optimizer(SCHEDULE, 0.0, 0.0, frozen))
    for number, fields in enumerate([*FIELDS[1:], FIELDS[0]]):
        write(tmp_path / str(number), state)
        optimizer = make_optimizer(SCHEDULE, *fields, frozen)
        wanted = abstract(create(PARAMS, optimizer, ema=True))
        restored = Checkpoints(tmp_path / str(number)).restore(wanted)
        assert_same(restored, state)
        state = after_steps(optimizer, 1, state=restored)
    assert int(state.step) == 6


def test_an_average_comes_and_goes_within_a_run(tmp_path):
    optimizer = make_optimizer(SCHEDULE, 0.0, 0.0)
    plain = after_steps(optimizer, ema=False)
    write(tmp_path / "plain", plain)
    begun = Checkpoints(tmp_path / "plain").restore(abstract(create(PARAMS, optimizer, ema=True)))
    assert_same(begun.ema, plain.params)
    assert_same(begun.params, plain.params)
    pairs = zip(jax.tree.leaves(begun.ema), jax.tree.leaves(begun.params), strict=True)
    assert all(a is not b for a, b in pairs)  # a step donates both

    averaged = after_steps(optimizer)
    write(tmp_path / "averaged", averaged)
    left = Checkpoints(tmp_path / "averaged").restore(
        abstract(create(PARAMS, optimizer, ema=False))
    )
    assert left.ema is None
    assert_same(left.params, averaged.params)
    assert not np.array_equal(left.params["net"]["w"], averaged.ema["net"]["w"])


def test_without_average_the_parameters_are_saved_once(tmp_path, make_state):
    state = dataclasses.replace(make_state(), ema=None, step=jnp.int32(4))
    write(tmp_path, state)
    assert_same(Checkpoints(tmp_path).restore(abstract(state)), state)
    assert Checkpoints(tmp_path)._manager.item_metadata(4)["training"].tree.keys() == {
        "opt_state",
        "step",
    }


def test_a_run_that_diverged_goes_on_with_clipping(tmp_path, tiny_yoda, batch):
    """The advice after a loss that is not finite, and then without clipping again."""

    compiled = {}

    def run(state, steps, clip_norm, peak=1e-3):
        optimizer = make_optimizer(optax.constant_schedule(peak), 0.0, clip_norm)
        step = jax.jit(make_train_step(tiny_yoda.loss, optimizer, 0.99))
        step = compiled.setdefault((clip_norm, peak), step)
        state = state or create(tiny_yoda.init(jax.random.key(0), 4), optimizer, ema=True)
        with Checkpoints(tmp_path / "run", keep=3) as checkpoints:
            if (latest := checkpoints.latest()) is not None:
                state = checkpoints.restore(abstract(state))
                assert int(state.step) == latest
            for _ in range(steps):
                state, metrics = step(state, batch, jax.random.key(1))
                if not np.isfinite(metrics["loss"] + metrics["grad_norm"]):
                    return state, False
            checkpoints.save(state, int(state.step), {})
            return state, True

    state, fine = run(None, 2, 0.0)
    assert fine
    assert not run(state, 6, 0.0, peak=1e30)[1]
    state, fine = run(state, 3, 1.0)
    assert fine and int(state.step) == 5
    state, fine = run(state, 3, 0.0)
    assert fine and int(state.step) == 8


@pytest.mark.parametrize(
    ("best", "values", "kept"),
    [
        ("lpips", [0.5, 0.2, 0.3, 0.4, 0.25], [2, 4, 5]),
        ("psnr", [20.0, 21.0, 25.0, 24.0, 23.0], [3, 4, 5]),
        ("psnr", [30.0, math.nan, 25.0, 24.0, 23.0], [1, 4, 5]),
        ("lpips", [None, 0.4, None, None, 0.6], [2, 4, 5]),
        (None, [0.1, 0.2, 0.3, 0.4, 0.5], [4, 5]),
    ],
)
def test_the_best_stays_beside_the_newest(tmp_path, best, values, kept):
    state = create(PARAMS, make_optimizer(SCHEDULE, 0.0, 0.0), ema=False)
    for step, value in enumerate(values, start=1):  # each in a job of its own
        with Checkpoints(tmp_path, keep=2, best=best) as checkpoints:
            metrics = None if value is None else {best or "lpips": value}
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), step, {}, metrics)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.is_dir()) == kept


def test_a_full_disk_is_one_sentence_with_the_path(tmp_path):
    """A limit on the size of files stands in for a disk that is full."""
    state = create({"w": jax.random.normal(jax.random.key(0), (300, 300))}, optax.sgd(0.1), False)
    sentence = f"could not be written to {tmp_path}/full: File too large; make room there"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(UserError, match=sentence),
            Checkpoints(tmp_path / "full", keep=2) as checkpoints,
        ):
            checkpoints.save(state, 1, {})  # leaving the block waits for it
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(tmp_path / "full", dataclasses.replace(state, step=jnp.int32(1)))  # there is room now
    assert Checkpoints(tmp_path / "full").latest() == 1


def test_a_clock_that_is_put_on_by_hours_ends_no_save(tmp_path, monkeypatch):
    begun, true = time.monotonic(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + 3600 * int(20 * (time.monotonic() - begun)))
    state = create({"w": jnp.ones((64, 64))}, optax.adam(0.1), ema=True)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), step, {})
    assert Checkpoints(tmp_path).latest() == 4
