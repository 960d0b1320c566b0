"""Maps of what a network without diffusion adds to the picture enlarged bicubically."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from yoda_jax.attention.classical import BANDWIDTH, area_mean

LR = UInt8[np.ndarray, "h w 3"]
HR = UInt8[np.ndarray, "H W 3"]


class EncoderAttention:
    """Maps an iterable of LR pictures to |enlarge(lr) - lr_up|, as heads of a backbone with one.

    The mean over colours, smoothed by a Gaussian of sigma BANDWIDTH as the map of edges is, with a
    cell for every `cell` pixels of the LR picture. `enlarge` is SRDiff's encoder, so where it finds
    nothing to add, diffusion is not asked either.
    """

    stride = 1  # pictures may have any size

    def __init__(self, enlarge: Callable[[LR], HR], cell: int) -> None:
        self._enlarge, self._cell = enlarge, cell

    def __call__(self, pictures: Iterable[LR]) -> Iterator[Float32[np.ndarray, "1 rows columns"]]:
        """The one head of each picture in turn."""
        return map(self._head, pictures)

    def _head(self, lr: LR) -> Float32[np.ndarray, "1 rows columns"]:
        made = self._enlarge(lr)
        height, width = made.shape[:2]
        lr_up = Image.fromarray(lr).resize((width, height), Image.Resampling.BICUBIC)
        added = np.abs(made.astype(np.float32) - np.asarray(lr_up, np.float32)).mean(axis=2)
        grid = max(lr.shape[0] // self._cell, 1), max(lr.shape[1] // self._cell, 1)
        if not added.any():
            return np.zeros((1, *grid), np.float32)
        return area_mean(gaussian_filter(added, BANDWIDTH * min(made.shape[:2])), grid)[None]
