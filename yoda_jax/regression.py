"""Super-resolution by a network alone, without diffusion: how SRDiff's encoder is trained."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from yoda_jax.arrays import Array
from yoda_jax.diffusion.loss import Diagnostics, Penalty, masked_loss
from yoda_jax.method import HR, LR, Attention, Batch, Progress
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class Regression:
    """A `Method` without noise and mask: the network's picture of an LR picture.

    The network is called with pictures in [-1, 1].
    """

    network: nn.Module
    scale: int
    resampling: Resampling
    penalty: Penalty = "l1"

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        return self.network.init(key, jnp.zeros((1, lr_size, lr_size, 3)))["params"]

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Batch
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """|| hr - network(lr) ||, a mean over pixels."""
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
        lr: LR,
        attention: Attention,
        progress: Progress = lambda share: None,
    ) -> tuple[HR, Bool[Array, ""]]:
        """In one step, whatever keys and attention are."""
        del keys, attention
        pictures = self._sampled(params, lr)
        progress(1.0)
        return pictures

    def diffused(self, attention: Attention) -> Float[Array, "B"]:
        return jnp.zeros(len(attention))

    @partial(jax.jit, static_argnums=0)
    def _sampled(self, params: Params, lr: LR) -> tuple[HR, Bool[Array, ""]]:
        picture = self._picture(params, lr)
        return to_uint8(picture), jnp.isfinite(picture).all()

    def _picture(self, params: Params, lr: LR) -> Float[Array, "B H W 3"]:
        return self.network.apply({"params": params}, to_unit(lr))
