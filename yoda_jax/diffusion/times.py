"""The times that are trained on, and their signal levels."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from yoda_jax.arrays import Array, Levels, Steps, Times
from yoda_jax.diffusion.schedule import NoiseSchedule


def draw_level(
    key: Key[Array, ""],
    schedule: NoiseSchedule,
    batch: int,
    continuous: bool,
    steps: Steps | None = None,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Draws t from 1..T and the signal level sqrt(g), for each picture on its own.

    t is uniform, or drawn in proportion to the number of pixels whose steps (0..T) are t or more;
    steps equal everywhere to T draw what uniform does.
    continuous: sqrt(g) ~ U(sqrt(g_t), sqrt(g_{t-1})), as SR3 trains; else sqrt(g_t), as SRDiff.
    """
    key_t, key_level = jax.random.split(key)
    t = jax.random.randint(key_t, (batch,), 1, schedule.num_steps + 1, jnp.int32)
    if steps is not None:
        quantile = t - 1 + jax.random.uniform(jax.random.fold_in(key_t, 0), (batch,), jnp.float32)
        # Not rounded to t.
        quantile = jnp.minimum(quantile, jnp.nextafter(t.astype(jnp.float32), 0.0))
        t = _by_area(quantile, steps, schedule.num_steps)
    low, high = schedule.signal[t], schedule.signal[t - 1]
    if not continuous:
        return t, low
    return t, low + (high - low) * jax.random.uniform(key_level, (batch,), jnp.float32)


def _by_area(quantile: Levels, steps: Steps, num_steps: int) -> Times:
    """The time below which quantile / T of the distribution lies, quantile in [0, T), by bisection.

    The times 1..t have sum min(steps, t) of sum steps; a picture without any gets 1.
    """
    area = (-3, -2, -1)
    target = quantile * (steps.mean(area, jnp.float32) / num_steps)
    t = jnp.zeros(quantile.shape, jnp.int32)
    for power in reversed(range(num_steps.bit_length())):  # the last t that does not pass target
        further = t + 2**power
        passed = jnp.minimum(steps, further[:, None, None, None]).mean(area, jnp.float32)
        t = jnp.where(passed <= target, further, t)
    # Rounding may have the target at the very end.
    return jnp.clip(t + 1, 1, jnp.maximum(steps.max(area), 1).astype(jnp.int32))
