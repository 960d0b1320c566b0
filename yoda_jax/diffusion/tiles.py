"""Frames in tiles: where these lie, when each has its first pixel to diffuse, and how they are cut.

A tile is a square of a frame that a network sees alone; its core is what is kept of its result.
Cores do not overlap and make up the frames, and around a core is a halo that belongs to others.
Along the border of two cores their results pass into each other on a ramp, a part of both halos.
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

    A core is given by its top, left, bottom and right, the last two behind it; ramps are half their
    widths at these four, 0 at a frame's rim.
    """

    size: tuple[int, int]
    corners: Int[np.ndarray, "N 3"]
    cores: Int[np.ndarray, "N 4"]
    ramps: Int[np.ndarray, "N 4"]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, chosen: slice | Int[np.ndarray, " n"]) -> Self:
        return Tiles(self.size, self.corners[chosen], self.cores[chosen], self.ramps[chosen])

    def filled(self, count: int) -> Self:
        """So many tiles: the last again and again, of which nothing is kept."""
        more = np.arange(count)
        found = self[np.minimum(more, len(self) - 1)]
        keep = (more < len(self)).astype(np.int32)[:, None]
        return dataclasses.replace(found, cores=found.cores * keep, ramps=found.ramps * keep)

    def times(self, scale: int) -> Self:
        """The same tiles of frames that are larger by a factor."""
        size = (scale * self.size[0], scale * self.size[1])
        corners = self.corners * np.array([1, scale, scale], np.int32)
        return Tiles(size, corners, self.cores * np.int32(scale), self.ramps * np.int32(scale))


def cut(
    count: int, frame: tuple[int, int], size: tuple[int, int], halo: int, ramp: int = 0
) -> Tiles:
    """As few tiles as cover `count` frames with a halo of at least that width, evenly spread.

    At a frame's rim a tile has no halo: it is moved inside. size is at most the frame's, and above
    2 halo where it is below. ramp is at most the halo; it is narrower where cores are.
    """
    axes = [_axis(*sides, halo, ramp) for sides in zip(frame, size, strict=True)]
    found = [
        ((picture, top[0], left[0]), (top[1], left[1], top[2], left[2]), (*top[3:], *left[3:]))
        for picture in range(count)
        for top in axes[0]
        for left in axes[1]
    ]
    corners, cores, ramps = (np.array(part, np.int32) for part in zip(*found, strict=True))
    return Tiles(size, corners, cores, ramps[:, [0, 2, 1, 3]])


def _axis(length: int, size: int, halo: int, ramp: int) -> list[tuple[int, int, int, int, int]]:
    """(start, the core's begin and end from there, the ramps at these) of tiles along an axis."""
    count = 1 if length == size else 1 + -(-(length - size) // (size - 2 * halo))
    starts = [i * (length - size) // max(1, count - 1) for i in range(count)]
    ends = [(a + size + b) // 2 for a, b in zip(starts, starts[1:], strict=False)]
    begins, ends = [0, *ends], [*ends, length]
    shortest = min(end - begin for begin, end in zip(begins, ends, strict=True))
    half = min(ramp, shortest // 2)
    return [
        (start, begin - start, end - start, half * (begin > 0), half * (end < length))
        for start, begin, end in zip(starts, begins, ends, strict=True)
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
    """A tile is needed from the step in which a pixel of its core, or of the ramps around it, is
    first diffused to the end.

    Before, nobody reads what it would give. Without `sparse` every tile counts as needed always, in
    the same order.
    """
    begin, end = tiles.cores[:, :2] - tiles.ramps[:, :2], tiles.cores[:, 2:] + tiles.ramps[:, 2:]
    spans = zip(*tiles.corners.T, *begin.T, *end.T, strict=True)
    needed = np.array(
        [steps[p, y + a : y + c, x + b : x + d].max() for p, y, x, a, b, c, d in spans], np.int32
    )
    order = np.argsort(-needed, kind="stable")
    return Plan(tiles[order], needed[order] if sparse else np.full_like(needed, chain), chain)


def take(
    frames: Shaped[Array, "P H W C"], corners: Int[Array, "n 3"], size: tuple[int, int]
) -> Shaped[Array, "n h w C"]:
    """The tiles at these corners, of any type of number."""

    def one(corner: Int[Array, "3"]) -> Shaped[Array, "h w C"]:
        start = (*corner, jnp.int32(0))
        return jax.lax.dynamic_slice(frames, start, (1, *size, frames.shape[-1]))[0]

    return jax.vmap(one)(corners)


def put(
    frames: Frames,
    squares: Squares,
    corners: Int[Array, "n 3"],
    cores: Int[Array, "n 4"],
    ramps: Int[Array, "n 4"],
) -> Frames:
    """The frames with these tiles added: whole in their cores, and ever less over the ramps.

    At each pixel the shares of all tiles of a cut are 1 in all.
    """
    _, height, width, channels = squares.shape
    corners = jnp.asarray(corners)
    rows = _shares(height, cores[:, ::2], ramps[:, ::2])[:, :, None, None]
    columns = _shares(width, cores[:, 1::2], ramps[:, 1::2])[:, None, :, None]
    squares = (squares * rows * columns).astype(frames.dtype)

    def one(i: Int[Array, ""], frames: Frames) -> Frames:
        start = (*corners[i], jnp.int32(0))
        old = jax.lax.dynamic_slice(frames, start, (1, height, width, channels))
        return jax.lax.dynamic_update_slice(frames, old + squares[i][None], start)

    return jax.lax.fori_loop(0, len(squares), one, frames)


def _shares(
    length: int, core: Int[Array, "n 2"], ramp: Int[Array, "n 2"]
) -> Float[Array, "n length"]:
    """Along an axis of tiles: 1 in the core, falling over each ramp, and 0 outside."""
    middle = jnp.arange(length, dtype=jnp.float32)[None] + 0.5
    core, ramp = jnp.asarray(core, jnp.float32), jnp.asarray(ramp, jnp.float32)
    # Of no width, a ramp is a step between two pixels.
    half = jnp.maximum(ramp, 0.25)
    up = (middle - core[:, :1]) / (2 * half[:, :1]) + 0.5
    down = (core[:, 1:] - middle) / (2 * half[:, 1:]) + 0.5
    return jnp.clip(up, 0.0, 1.0) * jnp.clip(down, 0.0, 1.0)
