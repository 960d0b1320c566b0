"""Super-resolution by a network alone, without diffusion: how SRDiff's encoder is trained."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key, UInt8

from yoda_jax.arrays import Array
from yoda_jax.diffusion.loss import Diagnostics, Penalty, masked_loss
from yoda_jax.method import Progress
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class Regression:
    """The picture that a network makes of an LR picture, a `Method` without noise and mask.

    The network is called with pictures in [-1, 1].
    """

    network: nn.Module
    scale: int
    resampling: Resampling
    penalty: Penalty = "l1"

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        """Parameters for square LR pictures of that size (any size gives the same shapes)."""
        return self.network.init(key, jnp.zeros((1, lr_size, lr_size, 3)))["params"]

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Mapping[str, UInt8[Array, "B ..."]]
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """|| hr - network(lr) || over a batch {hr, lr} of uint8, a mean over pixels."""
        del key
        hr, picture = to_unit(batch["hr"]), self._picture(params, batch["lr"])
        everywhere = jnp.ones((*hr.shape[:-1], 1), bool)
        loss = masked_loss(picture, hr, everywhere, penalty=self.penalty).mean()
        offset = picture - upsample(batch["lr"], self.scale, self.resampling)
        offset = jax.lax.stop_gradient(offset).mean((0, 1, 2))
        return loss, Diagnostics(mask_fraction=jnp.ones(()), y0_offset=offset)

    def sample(
        self,
        params: Params,
        keys: Key[Array, "B"],
        lr: UInt8[Array, "B h w 3"],
        attention: UInt8[Array, "B H W 1"],
        progress: Progress = lambda share: None,
    ) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, ""]]:
        """The network's pictures, in one step, whatever keys and attention are."""
        del keys, attention
        pictures = self._sampled(params, lr)
        progress(1.0)
        return pictures

    def diffused(self, attention: UInt8[Any, "B H W 1"]) -> Float[Array, "B"]:
        """Nothing is diffused."""
        return jnp.zeros(len(attention))

    @partial(jax.jit, static_argnums=0)
    def _sampled(
        self, params: Params, lr: UInt8[Array, "B h w 3"]
    ) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, ""]]:
        picture = self._picture(params, lr)
        return to_uint8(picture), jnp.isfinite(picture).all()

    def _picture(self, params: Params, lr: UInt8[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        return self.network.apply({"params": params}, to_unit(lr))
