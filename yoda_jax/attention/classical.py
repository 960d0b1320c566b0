"""Maps without learning, the baselines that self-supervised attention has to beat.

Every function takes the low-resolution picture, up-sampled to the attention input size, and the
grid (h, w) wanted, and returns one non-negative, unnormalised map on that grid (the picture's own
size gives the dense map). Neighbourhoods scale with the picture, not with the grid.
"""

import contextlib
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from skimage.feature import SIFT
from skimage.filters import rank, sobel
from skimage.morphology import disk

from yoda_jax.prefetch import prefetch

# Half the extent of one neighbourhood, in units of the picture's shorter side: about one cell of
# the 28 x 28 grid of a ViT with patch 8 at 224 pixels.
BANDWIDTH = 1 / 32


def edges(picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Gradient magnitude of the luminance, smoothed by a Gaussian of sigma BANDWIDTH."""
    return area_mean(gaussian_filter(_gradient(picture), _bandwidth(picture)), grid)


def sift_density(
    picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Gaussian kernel density of the SIFT keypoints, in keypoints per pixel.

    H and W are at least 8. A keypoint of several orientations counts once for each. Source: Lowe
    2004, "Distinctive image features from scale-invariant keypoints", as in scikit-image.
    """
    detector, count = SIFT(), np.zeros(picture.shape[:2])
    with contextlib.suppress(RuntimeError):  # how scikit-image reports that there is no keypoint
        detector.detect(rgb2gray(picture))
        np.add.at(count, tuple(detector.keypoints.T), 1)
    return area_mean(gaussian_filter(count, _bandwidth(picture)), grid)


def entropy(
    picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Entropy, in bits, of the gradient magnitude's histogram inside a disk around each pixel.

    The magnitude is divided by its maximum and cut into 256 levels before: up-sampled pictures have
    weak gradients, which would fall into few levels otherwise.
    """
    magnitude = _gradient(picture)
    levels = np.rint(magnitude * (255 / (magnitude.max() or 1))).astype(np.uint8)
    radius = max(1, round(_bandwidth(picture)))
    return area_mean(rank.entropy(levels, disk(radius)), grid)


def uniform(
    picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Ones everywhere: the base method without a mask."""
    return np.ones(grid, np.float32)


def constant(
    picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """No attention anywhere: every pixel is diffused for the lower bound's share of the steps.

    The control of every map, the whole picture starting late.
    """
    return np.zeros(grid, np.float32)


def random(
    picture: UInt8[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Independent draws from U[0, 1), one a cell, seeded by the CRC-32 of the picture's bytes.

    Drawn on the grid, for the mean of many draws in a cell would be almost constant. A pure
    function of the picture: any process, at any time, draws the same map for it.
    """
    generator = np.random.default_rng(zlib.crc32(picture.tobytes()))
    return generator.random(grid, np.float32)


CLASSICAL = {
    "edges": edges,
    "sift": sift_density,
    "entropy": entropy,
    "uniform": uniform,
    "constant": constant,
    "random": random,
}


class ClassicalAttention:
    """Maps an iterable of pictures to their maps, in order, as heads of a backbone that has one.

    A map has a cell for every `cell` pixels. `threads` compute a few pictures ahead.
    """

    stride = 1  # pictures may have any size

    def __init__(self, name: str, cell: int, threads: int) -> None:
        self._map, self._cell, self._threads = CLASSICAL[name], cell, threads

    def __call__(
        self, pictures: Iterable[UInt8[np.ndarray, "H W 3"]]
    ) -> Iterator[Float32[np.ndarray, "1 h w"]]:
        """The one head of each picture in turn."""
        return prefetch(self._head, pictures, self._threads)

    def _head(self, picture: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "1 h w"]:
        height, width = picture.shape[:2]
        grid = max(height // self._cell, 1), max(width // self._cell, 1)
        return self._map(picture, grid)[None]


def _gradient(picture: UInt8[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "H W"]:
    """Sobel magnitude of Y = .2125 R + .7154 G + .0721 B in [0,1] (BT.709, as rgb2gray).

    Y is summed in whole numbers, on which the Sobel kernel is exact: a picture of one colour has no
    gradient at all, where rounding errors would be normalised into a map of noise.
    """
    luminance = picture @ np.array([2125.0, 7154.0, 721.0])
    return sobel(luminance) / (10_000 * 255)


def _bandwidth(picture: UInt8[np.ndarray, "H W 3"]) -> float:
    return BANDWIDTH * min(picture.shape[:2])


def area_mean(dense: Float[np.ndarray, "H W"], grid: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Mean of `dense` over each cell of the grid; where cells cut pixels, each pixel is in one.

    A picture without detail gives ones, hence the plain base method.
    """
    if not dense.any():
        return np.ones(grid, np.float32)
    h, w = grid
    image = Image.fromarray(np.asarray(dense, np.float32))
    return np.array(image.resize((w, h), Image.Resampling.BOX))
