"""What training, sampling and evaluation know of a method."""

from collections.abc import Callable, Mapping
from typing import Protocol

from jaxtyping import Bool, Float, Key, UInt8

from yoda_jax.arrays import Array
from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.pictures import Resampling
from yoda_jax.training.state import Params

LR = UInt8[Array, "B h w 3"]
HR = UInt8[Array, "B H W 3"]
Attention = UInt8[Array, "B H W 1"]
Batch = Mapping[str, UInt8[Array, "B ..."]]  # hr, lr, attention
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
        self, params: Params, key: Key[Array, ""], batch: Batch
    ) -> tuple[Float[Array, ""], Diagnostics]:
        """The training objective of a batch, and what a step tells besides."""

    def sample(
        self,
        params: Params,
        keys: Key[Array, "B"],
        lr: LR,
        attention: Attention,
        progress: Progress,
    ) -> tuple[HR, Bool[Array, ""]]:
        """The pictures, where lr lies, and whether all were finite before they were rounded."""

    def diffused(self, attention: Attention) -> Float[Array, "B"]:
        """The share of pixel-steps in which the network's estimate counts."""
