"""The training state, its optimizer and the moving average of its parameters."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from yoda_jax.arrays import Array

Params = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. ema is None where no average is kept.

    Like every pytree it may also hold its leaves' shapes, or where they lie.
    """

    step: Any  # an int32 scalar
    params: Params | Any
    ema: Params | None | Any
    opt_state: optax.OptState

    @property
    def eval_params(self) -> Params:
        """The parameters to sample with: the average where there is one."""
        return self.params if self.ema is None else self.ema


def create(params: Params, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step; the average starts at the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        opt_state=optimizer.init(params),
    )


def learning_rate(
    peak: float, warmup_steps: int, halve_every: int = 0, decay_steps: int = 0
) -> optax.Schedule:
    """A linear rise to the peak over the first steps, then constant, as SR3 trains.

    Halved every `halve_every` steps of the whole, as SRDiff trains; 0: never. With `decay_steps` it
    falls to 0 over so many, by half a cosine.
    """
    rise = optax.join_schedules(
        [
            optax.linear_schedule(peak / max(warmup_steps, 1), peak, max(warmup_steps - 1, 1)),
            optax.constant_schedule(peak),
        ],
        [warmup_steps],
    )
    factors = [rise]
    if halve_every:
        factors.append(lambda step: 0.5 ** (step // halve_every))
    if decay_steps:
        factors.append(optax.cosine_decay_schedule(1.0, decay_steps))
    return lambda step: math.prod(factor(step) for factor in factors)


def make_optimizer(
    schedule: optax.Schedule, weight_decay: float, clip_norm: float, frozen: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Adam (.9, .999, 1e-8) with gradients clipped by global norm and decoupled weight decay.

    0 leaves clipping or decay out, and the state has one structure all the same: a run may go on
    with other values. `frozen` parts of the parameters stay as they are and have no moments.
    """
    adam = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )
    if not frozen:
        return adam

    def is_frozen(params: Params) -> dict[str, bool]:
        return {name: name in frozen for name in params}

    return optax.partition({False: adam, True: optax.set_to_zero()}, is_frozen)


def update_ema(
    ema: Params | None, params: Params, step: Int[Array, ""], decay: float
) -> Params | None:
    """ema + (1 - d) (params - ema), with d = min(decay, (1 + step) / (10 + step)).

    In this form the average of what never changes does not change either. The rising d forgets the
    initial parameters quickly (TensorFlow's ExponentialMovingAverage).
    """
    if ema is None:
        return None
    rising: Float[Array, ""] = (1.0 + step) / (10.0 + step)
    share = 1.0 - jnp.minimum(decay, rising)
    return jax.tree.map(lambda e, p: e + share * (p - e), ema, params)
