"""Optimizer, learning rate and the average of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from yoda_jax.training.state import create, learning_rate, make_optimizer, update_ema


def test_learning_rate_rises_linearly_and_stays():
    schedule = learning_rate(1.0, 4)
    np.testing.assert_allclose([schedule(i) for i in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose([learning_rate(0.5, 0)(i) for i in range(3)], 0.5)


def test_learning_rate_falls_by_half_a_cosine_and_by_halves():
    schedule = learning_rate(2.0, 1, decay_steps=8)
    expected = [1 + np.cos(np.pi * min(i / 8, 1)) for i in range(10)]
    np.testing.assert_allclose([schedule(i) for i in range(10)], expected, atol=1e-6)
    halved = learning_rate(2.0, 1, halve_every=4, decay_steps=8)
    np.testing.assert_allclose(halved(6), expected[6] / 2, rtol=1e-6)


def test_clipping_bounds_what_adam_sees():
    big, small = {"w": jnp.array([3e6, 4e6])}, {"w": jnp.array([0.6, 0.8])}
    clipped = make_optimizer(optax.constant_schedule(1.0), weight_decay=0.0, clip_norm=1.0)
    _, state = clipped.update(big, clipped.init(big), big)
    _, expected = clipped.update(small, clipped.init(small), small)
    found, wanted = (optax.tree.get(s, "mu")["w"] for s in (state, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("frozen", [(), ("w",)])
def test_the_state_has_one_structure_whatever_the_fields(frozen):
    params = {"v": jnp.ones(2), "w": jnp.ones(3)}
    states = [
        make_optimizer(optax.constant_schedule(1.0), decay, clip, frozen).init(params)
        for decay in (0.0, 0.1)
        for clip in (0.0, 1.0)
    ]
    assert len({jax.tree.structure(state) for state in states}) == 1


def test_weight_decay_shrinks_where_there_is_no_gradient():
    params = {"w": jnp.ones(3)}
    optimizer = make_optimizer(optax.constant_schedule(0.1), weight_decay=0.5, clip_norm=0.0)
    updates, _ = optimizer.update({"w": jnp.zeros(3)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_average_follows_its_definition(decay):
    average, expected = {"w": jnp.zeros(())}, 0.0
    for step in range(30):
        value = float(step + 1)
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
        average = update_ema(average, {"w": jnp.float32(value)}, jnp.int32(step), decay)
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_no_average_samples_with_the_parameters():
    optimizer = optax.adam(1e-3)
    params = {"w": jnp.ones(2)}
    assert create(params, optimizer, ema=False).eval_params is params
    assert update_ema(None, params, jnp.int32(0), 0.9) is None
    state = create(params, optimizer, ema=True)
    assert state.eval_params is state.ema and state.ema["w"] is not params["w"]
