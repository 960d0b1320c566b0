"""YODA around a network: what is trained and what is sampled, as pure functions of parameters."""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, PyTree

from yoda_jax.arrays import Array, Steps
from yoda_jax.diffusion import sampler
from yoda_jax.diffusion.formulation import Formulation
from yoda_jax.diffusion.loss import Diagnostics, Penalty, training_loss
from yoda_jax.diffusion.mask import Mask, diffused_fraction, sampling_steps
from yoda_jax.diffusion.schedule import Betas, NoiseSchedule, Spacing, noise_schedule
from yoda_jax.diffusion.steppers import StepperName, stepper
from yoda_jax.method import HR, LR, Attention, Batch, Progress
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.training.state import Params

_PORTIONS = 10  # at most, in which a chain is run, so that the host can tell how far it is
Base = Literal["bicubic", "encoder"]  # how LR pictures get HR size
_State = tuple[Float[Array, "B H W 3"], Float[Array, "B H W 3"]]  # as in `sampler`


@dataclasses.dataclass(frozen=True)
class Yoda:
    """A diffusion `Method` with the area mask around it; without one, the base method.

    The network has `encode(lr)` and `condition(encoded, lr_up)`, called once a picture, and
    `__call__(z, level, condition, train)`, called each step; for the base "encoder" also
    `enlarge(lr)`. lr_up is made here, so training and sampling share it.
    """

    network: nn.Module
    formulation: Formulation
    betas: Betas
    sampling_steps: int
    scale: int
    resampling: Resampling
    mask: Mask | None = None
    penalty: Penalty = "l1"
    spacing: Spacing = "uniform"  # of the sampling steps among those of training
    sampler: StepperName = "ddpm"
    eta: float = 0.0  # of ddim
    base: Base = "bicubic"

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        lr = jnp.zeros((1, lr_size, lr_size, 3))
        lr_up = jnp.zeros((1, self.scale * lr_size, self.scale * lr_size, 3))

        def run(network: nn.Module) -> Array:
            return network(lr_up, jnp.ones(1), network.condition(network.encode(lr), lr_up))

        return nn.init(run, self.network)(key)["params"]

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Batch
    ) -> tuple[Float[Array, ""], Diagnostics]:
        key_loss, key_dropout = jax.random.split(key)
        condition, rngs = self.condition(params, batch["lr"]), {"dropout": key_dropout}

        def predict(z: Array, level: Array) -> Array:
            variables = {"params": params}
            return self.network.apply(variables, z, level, condition, train=True, rngs=rngs)

        return training_loss(
            predict,
            key_loss,
            noise_schedule(self.betas),
            self.formulation,
            to_unit(batch["hr"]),
            self.enlarged(params, batch["lr"]),
            _unit(batch["attention"]),
            self.mask,
            penalty=self.penalty,
            continuous=self.network.continuous_level,
        )

    def schedule(self) -> NoiseSchedule:
        """The schedule of sampling: the training schedule, re-spaced to sampling_steps."""
        return noise_schedule(self.betas, self.sampling_steps, self.spacing)

    def condition(self, params: Params, lr: LR) -> PyTree:
        """What the network needs of LR pictures, the same at all steps."""
        lr_up = self.enlarged(params, lr)

        def run(network: nn.Module) -> PyTree:
            return network.condition(network.encode(to_unit(lr)), lr_up)

        return nn.apply(run, self.network)({"params": params})

    def enlarged(self, params: Params, lr: LR) -> Float[Array, "B H W 3"]:
        """lr_up: what stands outside the mask, and what residuals are taken from; in [-1, 1]."""
        if self.base == "bicubic":
            return upsample(lr, self.scale, self.resampling)
        return self.network.apply({"params": params}, to_unit(lr), method="enlarge")

    def sample(
        self,
        params: Params,
        keys: Key[Array, "B"],
        lr: LR,
        attention: Attention,
        progress: Progress = lambda share: None,
    ) -> tuple[HR, Bool[Array, ""]]:
        """The pictures after all steps; progress is told between portions of the chain.

        The state stays on the devices, cut as lr is. Compiled once for a method and a shape.
        """
        rows = lr.sharding if isinstance(lr, jax.Array) else None
        count = max(n for n in range(1, _PORTIONS + 1) if self.sampling_steps % n == 0)
        steps = np.arange(self.sampling_steps, 0, -1, dtype=np.int32).reshape(count, -1)
        condition, state = self._start(rows, params, keys, lr)
        for i, portion in enumerate(steps):
            state = self._advance(rows, params, condition, keys, lr, attention, state, portion)
            state[0].block_until_ready()
            progress((i + 1) / count)
        return self._finish(rows, params, lr, state[0])

    def diffused(self, attention: Attention) -> Float[Array, "B"]:
        if self.mask is None:
            return jnp.ones(len(attention))
        if not self.mask.truncate:  # whatever the number of steps
            return diffused_fraction(_unit(attention), self.mask.lower_bound)
        return self.steps(attention).mean((1, 2, 3)) / self.sampling_steps

    def steps(self, attention: Attention) -> Steps:
        """By how many of the sampling steps each pixel is diffused."""
        if self.mask is None:
            return jnp.full(attention.shape, self.sampling_steps, jnp.int32)
        return sampling_steps(_unit(attention), self.mask, self.schedule())

    @partial(jax.jit, static_argnums=(0, 1))
    def _start(
        self, rows: Any, params: Params, keys: Key[Array, "B"], lr: LR
    ) -> tuple[PyTree, _State]:
        """What is computed once a picture, and the state at T."""
        base = self.formulation.base(self.enlarged(params, lr))
        noise = sampler.frame_noise(keys, base.shape[1:])
        state = sampler.start_state(self.schedule(), noise, base)
        return _cut(rows, (self.condition(params, lr), state))

    @partial(jax.jit, static_argnums=(0, 1), donate_argnums=7)
    def _advance(
        self,
        rows: Any,
        params: Params,
        condition: PyTree,
        keys: Key[Array, "B"],
        lr: LR,
        attention: Attention,
        state: _State,
        steps: Int[Array, " N"],
    ) -> _State:
        """The state after the given steps of the chain."""
        schedule, base = self.schedule(), self.formulation.base(self.enlarged(params, lr))
        levels = schedule.signal if self.network.continuous_level else schedule.index

        def denoise(z: Array, t: Array) -> Array:
            return self.network.apply({"params": params}, z, levels[t], condition)

        noise = sampler.frame_noise(keys, base.shape[1:])
        state = sampler.reverse_steps(
            *(denoise, schedule, noise, base, _unit(attention), state, steps),
            mask=self.mask,
            step=stepper(self.sampler, self.eta),
        )
        return _cut(rows, state)

    @partial(jax.jit, static_argnums=(0, 1))
    def _finish(
        self, rows: Any, params: Params, lr: LR, z: Float[Array, "B H W 3"]
    ) -> tuple[HR, Bool[Array, ""]]:
        picture = self.formulation.decode(z, self.enlarged(params, lr))
        return _cut(rows, to_uint8(picture)), jnp.isfinite(picture).all()


def _unit(attention: Attention) -> Float[Array, "B H W 1"]:
    return jnp.asarray(attention, jnp.float32) / 255.0


def _cut(rows: Any, tree: PyTree) -> PyTree:
    """The arrays of a computation, cut over the devices as its pictures are."""
    if rows is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), tree)
