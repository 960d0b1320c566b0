"""What training, sampling and evaluation know of a method."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxtyping import Bool, Float, Key, UInt8

from yoda_jax.arrays import Array
from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.pictures import Resampling
from yoda_jax.training.state import Params

Progress = Callable[[float], None]  # is told the share that is done


class Method(Protocol):
    """A way to super-resolve pictures that a network is trained for.

    LR pictures and attention enter as the 8-bit arrays of a batch; nothing depends on how a batch
    was put together but through the keys, one a picture.
    """

    scale: int  # HR size / LR size
    resampling: Resampling  # by which LR pictures are made and enlarged

    def init(self, key: Key[Array, ""], lr_size: int) -> Params:
        """Parameters for square LR pictures of that size (any size gives the same shapes)."""

    def loss(
        self, params: Params, key: Key[Array, ""], batch: Mapping[str, UInt8[Array, "B ..."]]
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """The training objective of a batch {hr, lr, attention}, and what a step tells besides."""

    def sample(
        self,
        params: Params,
        keys: Key[Array, "B"],
        lr: UInt8[Array, "B h w 3"],
        attention: UInt8[Array, "B H W 1"],
        progress: Progress,
    ) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, ""]]:
        """The pictures, where lr lies, and whether all were finite before they were rounded."""

    def diffused(self, attention: UInt8[Any, "B H W 1"]) -> Float[Array, "B"]:
        """The share of pixel-steps in which the network's estimate counts."""
