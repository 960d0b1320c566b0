"""Frames in tiles: where these lie, when each has its first pixel to diffuse, and how they are cut.

A tile is a square of a frame that a network sees alone; its core is what is kept of its result.
Cores do not overlap and make up the frames, and around a core is a halo that belongs to others.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from yoda_jax.arrays import Array

Frames = Float[Array, "P H W C"]  # one a picture, all of one size
Squares = Float[Array, "n h w C"]  # tiles of them


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Tiles of one size: the corner of each (frame, top, left), and its core in the tile.

    A core is given by its top, left, bottom and right, the last two behind it.
    """

    size: tuple[int, int]
    corners: Int[np.ndarray, "N 3"]
    cores: Int[np.ndarray, "N 4"]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, chosen: slice | Int[np.ndarray, " n"]) -> Self:
        return dataclasses.replace(self, corners=self.corners[chosen], cores=self.cores[chosen])

    def times(self, scale: int) -> Self:
        """The same tiles of frames that are larger by a factor."""
        size = (scale * self.size[0], scale * self.size[1])
        corners = self.corners * np.array([1, scale, scale], np.int32)
        return Tiles(size, corners, self.cores * np.int32(scale))


def cut(count: int, frame: tuple[int, int], size: tuple[int, int], halo: int) -> Tiles:
    """As few tiles as cover `count` frames with a halo of at least that width, evenly spread.

    At a frame's rim a tile has no halo: it is moved inside. size is at most the frame's, and above
    2 halo where it is below.
    """
    rows, columns = (_axis(*sides, halo) for sides in zip(frame, size, strict=True))
    corners, cores = [], []
    for picture in range(count):
        for top, *vertical in rows:
            for left, *horizontal in columns:
                corners.append((picture, top, left))
                cores.append((vertical[0], horizontal[0], vertical[1], horizontal[1]))
    return Tiles(size, np.array(corners, np.int32), np.array(cores, np.int32))


def _axis(length: int, size: int, halo: int) -> list[tuple[int, int, int]]:
    """(start, the core's begin and end from there) of the tiles along an axis."""
    count = 1 if length == size else 1 + -(-(length - size) // (size - 2 * halo))
    starts = [i * (length - size) // max(1, count - 1) for i in range(count)]
    ends = [(a + size + b) // 2 for a, b in zip(starts, starts[1:], strict=False)]
    return [
        (start, begin - start, end - start)
        for start, begin, end in zip(starts, [0, *ends], [*ends, length], strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Tiles in the order in which a chain needs them, and the number of steps that need each."""

    tiles: Tiles
    steps: Int[np.ndarray, " N"]
    chain: int  # steps of the whole chain

    @property
    def evaluations(self) -> int:
        """Of the network, on a tile each."""
        return int(self.steps.sum())

    @property
    def dense_evaluations(self) -> int:
        """What these would be without leaving any out."""
        return len(self.tiles) * self.chain


def plan(tiles: Tiles, steps: Int[np.ndarray, "P H W 1"], chain: int, sparse: bool) -> Plan:
    """A tile is needed from the step in which a pixel of its core is first diffused to the end.

    Before, nobody reads what it would give. Without `sparse` every tile counts as needed always.
    """
    needed = np.full(len(tiles), chain, np.int32)
    if sparse:
        spans = zip(*tiles.corners.T, *tiles.cores.T, strict=True)
        needed[:] = [steps[p, y + a : y + c, x + b : x + d].max() for p, y, x, a, b, c, d in spans]
    order = np.argsort(-needed, kind="stable")
    return Plan(tiles[order], needed[order], chain)


def take(
    frames: Shaped[Array, "P H W C"], corners: Int[Array, "n 3"], size: tuple[int, int]
) -> Shaped[Array, "n h w C"]:
    """The tiles at these corners, of any type of number."""

    def one(corner: Int[Array, "3"]) -> Shaped[Array, "h w C"]:
        start = (*corner, jnp.int32(0))
        return jax.lax.dynamic_slice(frames, start, (1, *size, frames.shape[-1]))[0]

    return jax.vmap(one)(corners)


def put(
    frames: Frames, squares: Squares, corners: Int[Array, "n 3"], cores: Int[Array, "n 4"]
) -> Frames:
    """The frames with the cores of these tiles in place."""
    _, height, width, channels = squares.shape
    corners, cores = jnp.asarray(corners), jnp.asarray(cores)
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]

    def one(i: Int[Array, ""], frames: Frames) -> Frames:
        start = (*corners[i], jnp.int32(0))
        old = jax.lax.dynamic_slice(frames, start, (1, height, width, channels))
        top, left, bottom, right = cores[i]
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        new = jnp.where(inside[None], squares[i][None].astype(frames.dtype), old)
        return jax.lax.dynamic_update_slice(frames, new, start)

    return jax.lax.fori_loop(0, len(squares), one, frames)
