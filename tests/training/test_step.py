"""The step on one and on eight devices, in one and in several parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.training import sharding
from yoda_jax.training.step import make_train_step


def leaves_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def run(step, state, batch, mesh, strategy, steps=2):
    shardings = sharding.state_shardings(mesh, jax.eval_shape(lambda: state), strategy)
    state = jax.device_put(state, shardings)
    for _ in range(steps):
        state, metrics = step(state, sharding.share_out(mesh, batch), jax.random.key(7))
    return state, metrics


def test_eight_devices_do_what_one_does(make_state, make_step, batch):
    one = Mesh(np.array(jax.devices()[:1]), ("data",))
    state1, metrics1 = run(make_step(), make_state(), batch, one, "replicate")
    state8, metrics8 = run(make_step(), make_state(), batch, sharding.make_mesh(), "replicate")
    assert int(state8.step) == 2
    leaves_close(metrics1, metrics8, rtol=1e-3, atol=1e-5)
    leaves_close(state1.ema, state8.ema, atol=2e-5)


def test_the_step_is_a_function_of_key_and_step(make_state, make_step, batch):
    state, step = make_state(), make_step()
    first, again, other = (
        step(s, batch, jax.random.key(k))[1]["loss"]
        for s, k in ((state, 1), (state, 1), (dataclasses.replace(state, step=jnp.int32(1)), 1))
    )
    assert first == again != other


def test_parts_of_a_batch_add_up_to_its_gradient(optimizer, make_state, batch):
    """With a loss that uses no key, four parts must equal the whole, rows in any grouping."""

    def loss(params, key, rows):
        weights = params["last"]["kernel"]
        x = rows["hr"].astype(jnp.float32).mean((1, 2, 3)) / 255
        cost = (x[:, None, None] * weights[None]) ** 2
        return cost.mean(), Diagnostics(jnp.ones(()), jnp.zeros(3))

    results = [
        jax.jit(make_train_step(loss, optimizer, 0.9, parts))(
            make_state(), batch, jax.random.key(0)
        )
        for parts in (1, 4)
    ]
    leaves_close(results[0][1], results[1][1], rtol=1e-5)
    leaves_close(results[0][0].params, results[1][0].params, rtol=1e-5, atol=1e-7)


def test_accumulation_trains_the_method_itself(make_state, make_step, batch):
    state = make_state()
    after, metrics = make_step(4)(state, batch, jax.random.key(0))
    assert np.isfinite(metrics["loss"]) and metrics["y0_offset"].shape == (3,)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params, state.params)
    assert max(jax.tree.leaves(moved)) > 5e-4


def test_loss_falls_on_one_batch(make_state, make_step, batch):
    state, losses = make_state(), []
    for _ in range(300):
        state, metrics = make_step()(state, batch, jax.random.key(3))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:50])
