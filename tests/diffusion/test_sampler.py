"""Ancestral sampling under the mask: its limits, its noise level and the SR3 reference's loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.sr3 import load_golden, network, parameters
from reference import assert_near

from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.sampler import frame_noise, reverse_steps, sample, start_state
from yoda_jax.diffusion.schedule import gammas, linear, noise_schedule
from yoda_jax.diffusion.steppers import multistep

BETAS = linear(10, 1e-4, 0.5)
SCHEDULE = noise_schedule(BETAS)
TOTAL = SCHEDULE.num_steps
G = np.array(gammas(BETAS))
SHAPE = (3, 8, 8, 3)
BASE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, SHAPE), jnp.float32)
TARGET = jnp.roll(BASE, 3, axis=1)
# Between the times of two steps, so that masks by hand have no rounding to mind.
ATTENTION = jnp.asarray(np.random.default_rng(1).integers(0, 10, (*SHAPE[:3], 1)) / 10 + 0.03)
ZEROS = jnp.zeros_like(ATTENTION)
# NOISE[t] is that of step t, and of the start at T + 1: much quicker to compile than `frame_noise`.
NOISE = jnp.asarray(np.random.default_rng(2).standard_normal((TOTAL + 2, *SHAPE)), jnp.float32)


def stand_in(z, t, xp=jnp):
    """A smooth function of state and time in place of a network."""
    return xp.tanh(0.7 * z + 0.1 * t[:, None, None, None]) + 0.2 * z


def oracle(z, t, y0):
    """The noise in z of a denoiser that knows the target."""
    signal, noise = (table[t][:, None, None, None] for table in (SCHEDULE.signal, SCHEDULE.noise))
    return (z - signal * y0) / noise


@partial(jax.jit, static_argnames="mask")
def compiled(base, attention, table, target, knows, fail, mask):
    def denoise(z, t):
        return fail + jnp.where(knows, oracle(z, t, target), stand_in(z, t))

    return sample(denoise, SCHEDULE, lambda t: table[t], base, attention, mask=mask)


def run(base, attention, *, target=None, lower_bound=0.0, fail=0.0, table=NOISE):
    """A sample by the stand-in, or by the oracle of a target; fail NaN makes the network NaN."""
    known = base if target is None else target
    mask = Mask(lower_bound=lower_bound)
    return compiled(base, attention, table, known, target is not None, fail, mask)


@partial(jax.jit, static_argnames="mask")
def record(base, attention, table, mask):
    """A sample by the stand-in, which notes in SEEN what it is shown at each step."""

    def denoise(z, t):
        jax.debug.callback(lambda z, t: SEEN.update({int(t[0]): np.array(z)}), z, t)
        return stand_in(z, t)

    return sample(denoise, SCHEDULE, lambda t: table[t], base, attention, mask=mask)


SEEN = {}


def shown(attention, network_input="full"):
    SEEN.clear()
    z = record(
        BASE, attention, NOISE, Mask(lower_bound=0.0, network_input=network_input)
    ).block_until_ready()
    jax.effects_barrier()
    return z, dict(SEEN)


@pytest.fixture(scope="module")
def masked():
    """A masked sample of the stand-in network."""
    return run(BASE, ATTENTION)


def test_attention_1_is_ddpm():
    beta = np.array((0.0, *BETAS))
    z = np.sqrt(G[TOTAL]) * BASE + np.sqrt(1 - G[TOTAL]) * NOISE[TOTAL + 1]
    for t in range(TOTAL, 0, -1):
        eps = stand_in(z, np.full(SHAPE[0], t), np)
        y0 = np.clip((z - np.sqrt(1 - G[t]) * eps) / np.sqrt(G[t]), -1, 1)
        z = (
            np.sqrt(G[t - 1]) * beta[t] / (1 - G[t]) * y0
            + np.sqrt(1 - beta[t]) * (1 - G[t - 1]) / (1 - G[t]) * z
            + np.sqrt(beta[t] * (1 - G[t - 1]) / (1 - G[t])) * NOISE[t]
        )
    for lower_bound in (0.0, 0.05):
        found = run(BASE, jnp.ones_like(ATTENTION), lower_bound=lower_bound)
        np.testing.assert_allclose(found, z, atol=2e-5)


def test_without_a_mask_attention_plays_no_role():
    """Nor does any lower bound: the mask of a study's tuned one may be below 0."""

    @partial(jax.jit, static_argnames="mask")
    def sampled(attention, mask):
        return sample(
            stand_in, SCHEDULE, lambda t: jnp.asarray(NOISE)[t], BASE, attention, mask=mask
        )

    plain = sampled(None, None)
    np.testing.assert_array_equal(sampled(jnp.full_like(ATTENTION, np.nan), None), plain)
    np.testing.assert_array_equal(sampled(jnp.ones_like(ATTENTION), Mask(0.0)), plain)
    late = sampled(jnp.ones_like(ATTENTION), Mask(-0.5))
    assert np.abs(late - plain).max() > 0.1


def test_ten_steps_of_the_golden_network_are_the_references():
    golden = load_golden()
    ends = (float(golden["loop/linear_start"]), float(golden["loop/linear_end"]))
    schedule = noise_schedule(linear(int(golden["loop/T"]), *ends))
    params, base = {"params": parameters()}, jnp.asarray(golden["cond"][:1])
    # The reference starts at x_T: the noise that turns the noised base into it.
    first = (golden["loop/x_T"] - schedule.signal[-1] * base) / schedule.noise[-1]
    # Its step t draws noise[t]; ours counts from 1, and the start is step T + 1.
    table = jnp.concatenate([np.zeros_like(base)[None], golden["loop/noise"], first[None]])
    start, _ = start_state(schedule, lambda t: table[t], base)
    assert_near(start, golden["loop/x_T"], 1e-6)

    @jax.jit
    def loop():
        condition = network().apply(params, base, base, method="condition")
        return sample(
            lambda z, t: network().apply(params, z, schedule.signal[t], condition),
            schedule,
            lambda t: table[t],
            base,
            jnp.ones((1, 32, 32, 1)),
        )

    expected = np.moveaxis(golden["loop/out_CHW"], 0, -1)[None]
    assert_near(loop(), expected, 5e-5)  # ten networks one after another


def test_attention_0_is_the_base_bit_for_bit_and_asks_no_network():
    z, seen = shown(ZEROS)
    np.testing.assert_array_equal(z, BASE)
    assert not seen
    np.testing.assert_array_equal(run(BASE, ZEROS, fail=np.nan), BASE)
    # As many steps ask it as the most attended pixel of the batch is diffused.
    one_pixel = ZEROS.at[1, 2, 3].set(0.45)
    z, seen = shown(one_pixel)
    assert sorted(seen) == [1, 2, 3, 4]
    np.testing.assert_array_equal((z != BASE).any(-1, keepdims=True), one_pixel > 0)


def test_bound_of_one_step_makes_every_pixel_network_output():
    found = run(BASE, ZEROS, target=TARGET, lower_bound=1 / TOTAL)
    np.testing.assert_allclose(found, TARGET, atol=1e-5)
    found = run(BASE, ZEROS, target=TARGET, lower_bound=0.99 / TOTAL)
    np.testing.assert_array_equal(found, BASE)


def test_without_bound_attended_pixels_are_network_output_and_the_others_the_base():
    attention = np.where(ATTENTION > 0.5, ATTENTION, 0.0)
    found = run(BASE, attention, target=TARGET)
    np.testing.assert_allclose(found, np.where(attention > 0, TARGET, BASE), atol=1e-5)
    # A failing network stays inside the mask.
    found = run(BASE, attention, target=TARGET, fail=np.nan)
    np.testing.assert_array_equal(found, np.where(attention > 0, np.nan, BASE))


def test_the_network_sees_one_noised_state_or_zeros_outside_the_mask(masked):
    full, seen = shown(ATTENTION)
    hidden, seen_masked = shown(ATTENTION, "masked")
    assert sorted(seen) == sorted(seen_masked) == list(range(1, TOTAL))  # A stays below 1
    np.testing.assert_allclose(full, masked, atol=1e-6)
    for t, z in seen.items():
        mask = ATTENTION >= t / TOTAL
        assert 0 < mask.mean() < 1
        noised_base = np.sqrt(G[t]) * BASE + np.sqrt(1 - G[t]) * NOISE[t + 1]
        np.testing.assert_allclose(np.where(mask, 0, z), np.where(mask, 0, noised_base), atol=1e-5)
        np.testing.assert_array_equal(seen_masked[t][~mask[..., 0]], 0.0)
        np.testing.assert_allclose(seen_masked[t], np.where(mask, z, 0), atol=1e-5)
    # The stand-in looks at single pixels, so what it is not shown cannot matter.
    np.testing.assert_allclose(hidden, full, atol=1e-5)


def test_portions_are_one_scan_bit_for_bit():
    @jax.jit
    def advance(base, attention, table, state, steps):
        mask = Mask(lower_bound=0.0)
        return reverse_steps(
            *(stand_in, SCHEDULE, lambda t: table[t], base, attention, state, steps),
            mask=mask,
            step=multistep,
        )

    start = start_state(SCHEDULE, lambda t: NOISE[t], BASE)
    steps = np.arange(TOTAL, 0, -1)
    whole = advance(BASE, ATTENTION, NOISE, start, steps)
    state = start
    for portion in steps.reshape(2, 5):
        state = advance(BASE, ATTENTION, NOISE, state, portion)
    for found, expected in zip(state, whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_picture_does_not_depend_on_its_batch_mates(masked):
    for i in range(SHAPE[0]):
        row = slice(i, i + 1)
        alone = run(BASE[row], ATTENTION[row], table=NOISE[:, row])
        np.testing.assert_allclose(masked[row], alone, atol=1e-6)
    # Nor does a mate's failure reach it, nor a mate that is diffused for longer.
    base, attention = BASE.at[1].set(np.nan), ATTENTION.at[1].set(1.0)
    found = run(base, attention)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[::2], masked[::2], atol=1e-6)


def test_the_whole_state_has_one_noise_level_after_every_step():
    shape, half = (1, 64, 64, 3), 32
    base, target = (jnp.full(shape, value) for value in (0.4, -0.3))
    attention = jnp.zeros((*shape[:3], 1)).at[:, :, :half].set(1.0)
    table = jnp.asarray(np.random.default_rng(4).standard_normal((TOTAL + 2, *shape)), jnp.float32)

    @jax.jit
    def step(z, t):
        return reverse_steps(
            lambda z, t: oracle(z, t, target),
            SCHEDULE,
            lambda t: table[t],
            base,
            attention,
            (z, z),
            t[None],
            mask=Mask(lower_bound=0.0),
        )[0]

    # The start is the noised base; let the inside start as the noised target instead.
    z, _ = start_state(SCHEDULE, lambda t: table[t], base)
    z = z + SCHEDULE.signal[TOTAL] * (target - base)
    for t in range(TOTAL, 0, -1):
        z = step(z, jnp.int32(t))
        for part, clean in zip(np.split(np.asarray(z), 2, axis=2), (-0.3, 0.4), strict=True):
            np.testing.assert_allclose(part.mean(), np.sqrt(G[t - 1]) * clean, atol=0.05)
            np.testing.assert_allclose(part.std(), np.sqrt(1 - G[t - 1]), rtol=0.05, atol=1e-6)


def test_start_is_the_base_noised_by_step_T_plus_1():
    start, before = start_state(SCHEDULE, lambda t: NOISE[t], BASE)
    assert (before == 0).all()
    expected = np.sqrt(G[TOTAL]) * BASE + np.sqrt(1 - G[TOTAL]) * NOISE[TOTAL + 1]
    np.testing.assert_allclose(start, expected, atol=1e-6)


def test_frame_noise_is_normal_new_at_every_step_and_each_pictures_own():
    keys = jax.random.split(jax.random.key(1), 3)
    draw = jax.jit(lambda keys, t: frame_noise(keys, (8, 8, 3))(t))
    draws = np.stack([draw(keys, t) for t in range(1, 12)])
    rows = draws.reshape(-1, 192)
    np.testing.assert_allclose(rows.mean(), 0, atol=4 / np.sqrt(rows.size))
    np.testing.assert_allclose(rows.std(), 1, atol=4 / np.sqrt(2 * rows.size))
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 5 / np.sqrt(192)
    for order in ([2, 1, 0], [0, 0, 2]):
        mixed = draw(keys[np.array(order)], 2)
        np.testing.assert_array_equal(mixed, draws[1, order])


def test_state_is_float32_whatever_the_network_computes_in():
    def coarse(z, t):
        return stand_in(z, t).astype(jnp.bfloat16)

    noise = jnp.asarray(NOISE)
    for mask in (None, Mask()):
        shape = jax.eval_shape(
            lambda mask=mask: sample(
                coarse, SCHEDULE, lambda t: noise[t], BASE, ATTENTION, mask=mask
            )
        )
        assert (shape.shape, shape.dtype) == (SHAPE, jnp.float32)
