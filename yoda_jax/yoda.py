"""YODA around a network: what is trained and what is sampled, as pure functions of parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

from yoda_jax.diffusion import sampler
from yoda_jax.diffusion.formulation import Formulation
from yoda_jax.diffusion.loss import Diagnostics, LossNorm, Penalty, training_loss
from yoda_jax.diffusion.schedule import Betas, NoiseSchedule, noise_schedule
from yoda_jax.diffusion.times import Times
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class Yoda:
    """A diffusion super-resolution method with the area mask around it.

    The network has two methods: `condition(lr, lr_up)`, called once a picture, and
    `__call__(z, level, condition, train)`, called each step. masked False is the base method alone
    (attention counts as 1 everywhere). Pictures enter as uint8 LR; lr_up is made here, so training
    and sampling share it.
    """

    network: nn.Module
    formulation: Formulation
    betas: Betas
    sampling_steps: int
    scale: int
    resampling: Resampling
    masked: bool = True
    lower_bound: float = 0.05
    loss_norm: LossNorm = "pixels"
    penalty: Penalty = "l1"
    times: Times = "uniform"
    context: Literal["hr", "lr"] = "hr"
    network_input: Literal["full", "masked"] = "full"
    continuous_level: bool = True

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        """Parameters for square LR pictures of that size (any size gives the same shapes)."""
        lr, lr_up = self._pictures(jnp.zeros((1, lr_size, lr_size, 3), jnp.uint8))

        def run(network: nn.Module) -> Array:
            return network(lr_up, jnp.ones(1), network.condition(lr, lr_up))

        return nn.init(run, self.network)(key)["params"]

    def with_mask(self, masked: bool) -> Self:
        """The same method with or without the mask."""
        return dataclasses.replace(self, masked=masked)

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Mapping[str, UInt8[Array, "B ..."]]
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """The training objective of a batch {hr, lr, attention} of uint8."""
        key_loss, key_dropout = jax.random.split(key)
        _, lr_up = self._pictures(batch["lr"])
        hr = to_unit(batch["hr"])
        variables = {"params": params}
        condition = self.condition(params, batch["lr"])

        def predict(z: Array, level: Array) -> Array:
            rngs = {"dropout": key_dropout}
            return self.network.apply(variables, z, level, condition, train=True, rngs=rngs)

        return training_loss(
            predict,
            key_loss,
            noise_schedule(self.betas),
            self.formulation.encode(hr, lr_up),
            self.formulation.base(lr_up),
            self._attention(batch["attention"]),
            lower_bound=self.lower_bound,
            norm=self.loss_norm,
            penalty=self.penalty,
            times=self.times if self.masked else "uniform",
            context=self.context,
            network_input=self.network_input,
            continuous=self.continuous_level,
        )

    def schedule(self) -> NoiseSchedule:
        """The schedule of sampling: the training schedule, re-spaced to sampling_steps."""
        return noise_schedule(self.betas, self.sampling_steps)

    def start(self, keys: Key[Array, "B"], lr: UInt8[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        """z_T of LR pictures, each with its own key."""
        _, lr_up = self._pictures(lr)
        base = self.formulation.base(lr_up)
        return sampler.start_state(self.schedule(), sampler.frame_noise(keys, base.shape[1:]), base)

    def condition(self, params: Params, lr: UInt8[Array, "B h w 3"]) -> PyTree:
        """What the network needs of LR pictures, the same at all steps."""
        return self.network.apply({"params": params}, *self._pictures(lr), method="condition")

    def advance(
        self,
        params: Params,
        condition: PyTree,
        keys: Key[Array, "B"],
        lr: UInt8[Array, "B h w 3"],
        attention: UInt8[Array, "B H W 1"],
        z: Float[Array, "B H W 3"],
        steps: Int[Array, "N"],
    ) -> Float[Array, "B H W 3"]:
        """z after the given steps of the sampler (T..1 in all, in any number of portions)."""
        _, lr_up = self._pictures(lr)
        schedule, base = self.schedule(), self.formulation.base(lr_up)

        def denoise(z: Array, t: Array) -> Array:
            level = schedule.signal[t] if self.continuous_level else schedule.index[t]
            return self.network.apply({"params": params}, z, level, condition)

        return sampler.reverse_steps(
            denoise,
            schedule,
            sampler.frame_noise(keys, base.shape[1:]),
            base,
            self._attention(attention),
            z,
            steps,
            lower_bound=self.lower_bound,
            network_input=self.network_input,
        )

    def finish(
        self, lr: UInt8[Array, "B h w 3"], z: Float[Array, "B H W 3"]
    ) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, "B"]]:
        """The 8-bit pictures of z_0, and whether each was finite before it was rounded."""
        _, lr_up = self._pictures(lr)
        picture = self.formulation.decode(z, lr_up)
        return to_uint8(picture), jnp.isfinite(picture).all((1, 2, 3))

    def _pictures(self, lr: UInt8[Array, "B h w 3"]) -> tuple[Array, Array]:
        return to_unit(lr), upsample(lr, self.scale, self.resampling)

    def _attention(self, attention: UInt8[Array, "B H W 1"]) -> Float[Array, "B H W 1"]:
        values = attention.astype(jnp.float32) / 255.0
        return values if self.masked else jnp.ones_like(values)
