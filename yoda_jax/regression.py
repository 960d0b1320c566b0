"""Super-resolution by a network alone, without diffusion: how SRDiff's encoder is trained."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from yoda_jax.diffusion.loss import Diagnostics, Penalty, masked_loss
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.training.state import Params


@dataclasses.dataclass(frozen=True)
class Regression:
    """The picture that a network makes of an LR picture, as a method like `Yoda` of one step.

    The network is called with pictures in [-1, 1]. There is no noise, no mask and no state.
    """

    network: nn.Module
    scale: int
    resampling: Resampling
    penalty: Penalty = "l1"
    sampling_steps: int = 1

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        """Parameters for square LR pictures of that size (any size gives the same shapes)."""
        return self.network.init(key, jnp.zeros((1, lr_size, lr_size, 3)))["params"]

    def with_mask(self, masked: bool) -> Self:
        """Itself: nothing is diffused, hence nothing masked."""
        del masked
        return self

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Mapping[str, UInt8[Array, "B ..."]]
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """|| hr - network(lr) || over a batch {hr, lr} of uint8, a mean over pixels."""
        del key
        hr = to_unit(batch["hr"])
        picture = self.condition(params, batch["lr"])
        everywhere = jnp.ones((*hr.shape[:-1], 1), bool)
        loss = masked_loss(picture, hr, everywhere, penalty=self.penalty).mean()
        offset = picture - upsample(batch["lr"], self.scale, self.resampling)
        offset = jax.lax.stop_gradient(offset).mean((0, 1, 2))
        return loss, Diagnostics(mask_fraction=jnp.ones(()), y0_offset=offset)

    def condition(self, params: Params, lr: UInt8[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        """The network's pictures."""
        return self.network.apply({"params": params}, to_unit(lr))

    def start(self, keys: Key[Array, "B"], lr: UInt8[Array, "B h w 3"]) -> Float[Array, "B H W 3"]:
        """The up-sampled pictures, which the only step replaces."""
        del keys
        return upsample(lr, self.scale, self.resampling)

    def advance(
        self,
        params: Params,
        condition: Float[Array, "B H W 3"],
        keys: Key[Array, "B"],
        lr: UInt8[Array, "B h w 3"],
        attention: UInt8[Array, "B H W 1"],
        z: Float[Array, "B H W 3"],
        steps: Int[Array, "N"],
    ) -> Float[Array, "B H W 3"]:
        """The network's pictures, whatever was before."""
        del params, keys, lr, attention, z, steps
        return condition

    def finish(
        self, lr: UInt8[Array, "B h w 3"], z: Float[Array, "B H W 3"]
    ) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, "B"]]:
        """The 8-bit pictures, and whether each was finite before it was rounded."""
        del lr
        return to_uint8(z), jnp.isfinite(z).all((1, 2, 3))
