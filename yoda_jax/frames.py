"""What is compiled for sampling by tiles: on the frames of pictures, and on batches of tiles.

Only the functions of tiles contain the network, and they serve frames of every size but the small.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, PyTree

from yoda_jax.arrays import Array
from yoda_jax.diffusion import sampler
from yoda_jax.diffusion.steppers import stepper
from yoda_jax.diffusion.tiles import Frames, Squares, put, take
from yoda_jax.method import HR, LR, Attention
from yoda_jax.pictures import to_uint8, to_unit, upsample
from yoda_jax.regression import Regression
from yoda_jax.training.state import Params
from yoda_jax.yoda import Yoda

Steps = Int[Array, "P H W 1"]
State = tuple[Frames, Frames]  # as in `sampler`


@partial(jax.jit, static_argnums=0)
def steps(yoda: Yoda, attention: Attention) -> Steps:
    return yoda.steps(attention)


@partial(jax.jit, static_argnums=0)
def upsampled(yoda: Yoda, lr: LR) -> Frames:
    return upsample(lr, yoda.scale, yoda.resampling)


@partial(jax.jit, static_argnums=0)
def enlarged(
    network: nn.Module, params: Params, lr: Float[Array, "n h w 3"]
) -> Float[Array, "n H W 3"]:
    """The picture of a network's encoder."""
    return network.apply({"params": params}, lr, method="enlarge")


@partial(jax.jit, static_argnums=0)
def start(yoda: Yoda, keys: Key[Array, "P"], lr_up: Frames, t: Int[Array, ""]) -> State:
    """The state at t, before which nothing is diffused, and no estimate yet."""
    base = yoda.formulation.base(lr_up)
    noise = sampler.frame_noise(keys, base.shape[1:])
    return sampler.noised(yoda.schedule(), noise, base, t), jnp.zeros_like(base)


@partial(jax.jit, static_argnums=0)
def seen(yoda: Yoda, steps: Steps, z: Frames, t: Int[Array, ""]) -> Frames:
    return sampler.seen(yoda.mask, steps, z, t)


@partial(jax.jit, static_argnums=0)
def taken(size: tuple[int, int], frames: Array, corners: Int[Array, "n 3"]) -> Squares:
    """Tiles of frames; 8-bit ones in [-1, 1]."""
    squares = take(frames, corners, size)
    return to_unit(squares) if squares.dtype == jnp.uint8 else squares


@partial(jax.jit, static_argnums=0)
def encoded(
    network: nn.Module, params: Params, lr: Float[Array, "n h w 3"]
) -> Float[Array, "n h w F"]:
    return network.apply({"params": params}, lr, method="encode")


@partial(jax.jit, static_argnums=0)
def picture(
    regression: Regression, params: Params, lr: Float[Array, "n h w 3"]
) -> Float[Array, "n H W 3"]:
    return regression.network.apply({"params": params}, lr)


@partial(jax.jit, static_argnums=0)
def condition(
    network: nn.Module,
    params: Params,
    encoded: Float[Array, "n h w F"],
    lr_up: Float[Array, "n H W 3"],
) -> PyTree:
    return network.apply({"params": params}, encoded, lr_up, method="condition")


@partial(jax.jit, static_argnums=0)
def level(yoda: Yoda, t: Int[Array, ""]) -> Float[Array, ""]:
    """What the network is told of the noise at t."""
    schedule = yoda.schedule()
    levels = schedule.signal if yoda.network.continuous_level else schedule.index
    return jnp.asarray(levels, jnp.float32)[t]


@partial(jax.jit, static_argnums=0)
def estimate(
    network: nn.Module, params: Params, z: Squares, level: Float[Array, ""], condition: PyTree
) -> Squares:
    """The noise in tiles; of a network, so that chains of any length share the compilation."""
    return network.apply({"params": params}, z, jnp.full(len(z), level), condition)


@partial(jax.jit, donate_argnums=0)
def added(
    frames: Frames,
    squares: Squares,
    corners: Int[Array, "n 3"],
    cores: Int[Array, "n 4"],
    ramps: Int[Array, "n 4"],
) -> Frames:
    """Frames with tiles added."""
    return put(frames, squares, corners, cores, ramps)


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def advance(
    yoda: Yoda,
    keys: Key[Array, "P"],
    lr_up: Frames,
    steps: Steps,
    state: State,
    eps: Frames,
    t: Int[Array, ""],
) -> State:
    base = yoda.formulation.base(lr_up)
    noise = sampler.frame_noise(keys, base.shape[1:])
    step = stepper(yoda.sampler, yoda.eta)
    return sampler.reverse_step(yoda.schedule(), noise, base, steps, state, eps, t, step)


@partial(jax.jit, static_argnums=0)
def decoded(yoda: Yoda, z: Frames, lr_up: Frames) -> Frames:
    return yoda.formulation.decode(z, lr_up)


@jax.jit
def levels(frames: Frames) -> tuple[HR, Bool[Array, ""]]:
    return to_uint8(frames), jnp.isfinite(frames).all()
