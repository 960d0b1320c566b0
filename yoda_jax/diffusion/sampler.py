"""Sampling under the area mask, with any stepper."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from yoda_jax.arrays import Array, Maps, Steps
from yoda_jax.diffusion.mask import Mask, area_mask, sampling_steps
from yoda_jax.diffusion.noising import add_noise, blend, predict_y0
from yoda_jax.diffusion.schedule import NoiseSchedule
from yoda_jax.diffusion.steppers import History, Stepper, ddpm

State = Float[Array, "B H W C"]
Denoiser = Callable[[State, Int[Array, "B"]], State]
FrameNoise = Callable[[Int[Array, ""]], State]


def frame_noise(keys: Key[Array, "B"], shape: tuple[int, int, int]) -> FrameNoise:
    """Standard normal noise of a step for the full frame of each picture, from fold_in(key, t).

    Every picture has its own key, so its result depends neither on its batch nor on tiling.
    """

    def draw(key: Key[Array, ""], t: Int[Array, ""]) -> Float[Array, "H W C"]:
        return jax.random.normal(jax.random.fold_in(key, t), shape, jnp.float32)

    return lambda t: jax.vmap(draw, (0, None))(keys, t)


def start_state(schedule: NoiseSchedule, noise: FrameNoise, base: State) -> tuple[State, State]:
    """z_T, the noised base, whose noise is that of step T + 1, and no estimate yet (zeros)."""
    z = noised(schedule, noise, base, jnp.int32(schedule.num_steps))
    return z, jnp.zeros_like(z)


def noised(schedule: NoiseSchedule, noise: FrameNoise, base: State, t: Int[Array, ""]) -> State:
    """The base noised to t, by the noise of step t + 1: what stands outside the mask at t."""
    return add_noise(base, noise(t + 1), *_levels(schedule, t, base))


def reverse_step(
    schedule: NoiseSchedule,
    noise: FrameNoise,
    base: State,
    steps: Steps,
    state: tuple[State, State],
    eps: State,
    t: Int[Array, ""],
    step: Stepper = ddpm,
) -> tuple[State, State]:
    """The state at t - 1 from that at t and the noise estimated in it.

    Inside M(t) stands the base method's step, outside the base noised to t-1. `eps` counts inside
    alone.
    """
    z, before = state
    t_all, fresh = jnp.full(len(base), t), noise(t)
    y0 = predict_y0(z, eps.astype(jnp.float32), *_levels(schedule, t, base))
    # What a pixel's estimate was before it became active says nothing of its own way.
    history = History(before, area_mask(steps, t_all + 1))
    outside = add_noise(base, fresh, *_levels(schedule, t - 1, base))
    moved = step(schedule, z, y0, fresh, t_all, history)
    return blend(area_mask(steps, t_all), moved, outside), y0


def seen(mask: Mask | None, steps: Steps, z: State, t: Int[Array, ""]) -> State:
    """What of the state at t the network is shown."""
    if mask is None or mask.network_input == "full":
        return z
    return blend(area_mask(steps, jnp.full(len(z), t)), z, jnp.zeros_like(z))


def reverse_steps(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    noise: FrameNoise,
    base: State,
    attention: Maps | None,
    state: tuple[State, State],
    times: Int[Array, "N"],
    *,
    mask: Mask | None = None,
    step: Stepper = ddpm,
) -> tuple[State, State]:
    """Takes a state through the steps t -> t-1 of the given times, in their order, in one scan.

    The state is z and the clean target of the step before, as `start_state` gives it; a step is
    `reverse_step`, so z has one noise level. Without a mask this is the base method. A step whose
    mask is empty for all pictures does not call the network. The state is float32.
    Source: YODA, arXiv 2308.07977; SR3, algorithm 2.
    """
    if mask is None:
        attention, mask = jnp.ones_like(base[..., :1]), Mask()
    steps = sampling_steps(attention, mask, schedule)
    most = steps.max()  # known before the scan, so devices that share the batch agree once

    def advance(state: tuple[State, State], t: Int[Array, ""]) -> tuple[tuple[State, State], None]:
        def diffuse(z: State, before: State) -> tuple[State, State]:
            eps = denoise(seen(mask, steps, z, t), jnp.full(len(base), t))
            return reverse_step(schedule, noise, base, steps, (z, before), eps, t, step)

        def wait(z: State, before: State) -> tuple[State, State]:
            return noised(schedule, noise, base, t - 1), before

        return jax.lax.cond(t <= most, diffuse, wait, *state), None

    state = jax.tree.map(lambda x: x.astype(jnp.float32), state)
    return jax.lax.scan(advance, state, times)[0]


def sample(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    noise: FrameNoise,
    base: State,
    attention: Maps | None,
    *,
    mask: Mask | None = None,
    step: Stepper = ddpm,
) -> State:
    """z_0 by all steps T..1 from the noised base: `start_state`, then `reverse_steps`.

    Without a mask, or with attention 1 everywhere, this is the base method's sampler; with
    attention 0 and lower bound 0 it is the base, bit for bit.
    """
    start = start_state(schedule, noise, base)
    times = jnp.arange(schedule.num_steps, 0, -1)
    return reverse_steps(
        denoise, schedule, noise, base, attention, start, times, mask=mask, step=step
    )[0]


def _levels(
    schedule: NoiseSchedule, t: int | Int[Array, ""], base: State
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    return jnp.full(len(base), schedule.signal[t]), jnp.full(len(base), schedule.noise[t])
