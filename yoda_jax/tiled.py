"""Pictures of any size by a network that sees tiles of them, and only those that the mask needs.

A picture has one state. In each step the noise at a pixel is estimated in the tile whose core holds
it, near a border in both, and a tile that no such pixel needs is left out. Masks nest, so tiles in
the order in which they are first needed make the needed ones a prefix that grows, and the result is
that of all tiles. The steps are a loop on the host: what takes long to compile, the network on a
batch of tiles, serves pictures of every size that fill a batch.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int, Key, PyTree, UInt8

from yoda_jax import frames
from yoda_jax.arrays import Array
from yoda_jax.diffusion.tiles import Frames, Plan, Squares, Tiles, cut, plan
from yoda_jax.frames import State, Steps
from yoda_jax.method import HR, LR, Attention, Progress
from yoda_jax.pictures import to_unit
from yoda_jax.regression import Regression
from yoda_jax.training.sharding import by_rows, replicated
from yoda_jax.training.state import Params
from yoda_jax.yoda import Yoda

# Side and halo of the tiles in which an encoder sees LR pictures, in their pixels.
_ENCODER_TILE, _ENCODER_HALO = 96, 8
# Most that is kept of conditions at HR size, those of the tiles that are needed longest.
_CONDITION_BYTES = 2**28

# Is shown t, the steps of all pixels, the state and lr_up.
Watch = Callable[[int, Steps, State, Frames], None]


@dataclasses.dataclass(frozen=True)
class Tiled:
    """Samples pictures as a `Method` does, of any size, by a method's network on tiles.

    `tile` and `halo` are in HR pixels, the first a multiple of the scale and of the network's
    reduction. `batch` tiles are seen at once, shared out over the devices of `mesh`, whose number
    divides it; frames lie on the first device. Without `sparse` all tiles are evaluated at all
    steps, which gives the same.
    """

    method: Yoda | Regression
    mesh: Mesh
    tile: int
    halo: int
    batch: int
    sparse: bool = True

    def sample(
        self,
        params: Params,
        keys: Key[Array, "P"],
        lr: LR,
        attention: Attention,
        progress: Progress = lambda share: None,
        watch: Watch | None = None,
    ) -> tuple[HR, Bool[Array, ""]]:
        """The pictures, and whether all were finite before rounding; progress after each step."""
        height, width = (self.method.scale * side for side in lr.shape[1:3])
        lr, attention = self._padded(lr, 1), self._padded(attention, self.method.scale)
        params = jax.device_put(params, replicated(self.mesh))
        keys, lr, attention = jax.device_put((keys, lr, attention), self._home)
        if isinstance(self.method, Regression):
            picture = partial(frames.picture, self.method)
            made = self._by_tiles(picture, params, lr, self.method.scale, 3)
            progress(1.0)
        else:
            made = self._diffused(params, keys, lr, attention, progress, watch)
        pictures, finite = frames.levels(made)
        return pictures[:, :height, :width], finite

    @property
    def diffuses(self) -> bool:
        """Whether there are steps, which a mask can save."""
        return isinstance(self.method, Yoda)

    def seconds_a_batch(self, params: Params) -> float:
        """How long a batch of tiles takes the network, once it is compiled."""
        if not self.diffuses:
            return 0.0
        yoda, everywhere = self.method, replicated(self.mesh)
        side = self.tile // yoda.scale
        lr = np.zeros((self.batch, side, side, 3), np.uint8)
        params, lr = jax.device_put((params, lr), (everywhere, by_rows(self.mesh)))
        z = jnp.zeros((self.batch, self.tile, self.tile, 3), device=by_rows(self.mesh))
        encoded = frames.encoded(yoda.network, params, to_unit(lr))
        condition = frames.condition(yoda.network, params, encoded, z)
        level = jax.device_put(frames.level(yoda, jnp.int32(1)), everywhere)
        for _ in range(2):
            begun = time.monotonic()
            frames.estimate(yoda.network, params, z, level, condition).block_until_ready()
        return time.monotonic() - begun

    def plan(self, attention: Attention) -> Plan:
        """The work that pictures of this attention are."""
        return self._plan(frames.steps(self.method, self._padded(attention, self.method.scale)))

    def _plan(self, steps: Steps) -> Plan:
        scale, side = self.method.scale, self.tile // self.method.scale
        frame = (steps.shape[1] // scale, steps.shape[2] // scale)
        halo = -(-self.halo // scale)
        tiles = cut(len(steps), frame, (side, side), halo, ramp=-(-halo // 2)).times(scale)
        return plan(tiles, np.asarray(steps), self.method.sampling_steps, self.sparse)

    def _diffused(
        self,
        params: Params,
        keys: Key[Array, "P"],
        lr: LR,
        attention: Attention,
        progress: Progress,
        watch: Watch | None,
    ) -> Frames:
        yoda = self.method
        steps, lr_up = frames.steps(yoda, attention), self._enlarged(params, lr)
        encode = partial(frames.encoded, yoda.network)
        features = jax.eval_shape(encode, params, to_unit(lr)).shape[-1]
        encoded = self._by_tiles(encode, params, lr, 1, features)
        work = self._plan(steps)
        batches = self._batches(work.tiles)
        first, done, size = int(work.steps[0]), 0, work.tiles.size
        state = frames.start(yoda, keys, lr_up, jnp.int32(first))

        def condition(corners: Int[Array, "n 3"]) -> PyTree:
            low = corners // np.array([1, yoda.scale, yoda.scale], np.int32)
            side = size[0] // yoda.scale
            small = self._taken((side, side), encoded, low)
            around = self._taken(size, lr_up, corners)
            return frames.condition(yoda.network, params, small, around)

        kept = _Kept(condition)
        for t in range(first, 0, -1):
            now, needed = jnp.int32(t), int((work.steps >= t).sum())
            seen = frames.seen(yoda, steps, state[0], now)
            level = jax.device_put(frames.level(yoda, now), replicated(self.mesh))
            eps = jnp.zeros_like(state[0])
            for i, part in enumerate(batches[: -(-needed // len(batches[0]))]):
                z = self._taken(size, seen, part.corners)
                noise = frames.estimate(yoda.network, params, z, level, kept(i, part.corners))
                eps = self._added(eps, noise, part)
            state = frames.advance(yoda, keys, lr_up, steps, state, eps, now)
            state[0].block_until_ready()
            done += needed
            progress(done / work.evaluations)
            if watch is not None:
                watch(t - 1, steps, state, lr_up)
        if not work.evaluations:
            progress(1.0)
        return frames.decoded(yoda, state[0], lr_up)

    def _enlarged(self, params: Params, lr: LR) -> Frames:
        if self.method.base == "bicubic":
            return frames.upsampled(self.method, lr)
        enlarge = partial(frames.enlarged, self.method.network)
        return self._by_tiles(enlarge, params, lr, self.method.scale, 3)

    def _by_tiles(
        self,
        function: Callable[[Params, Squares], Squares],
        params: Params,
        lr: LR,
        scale: int,
        channels: int,
    ) -> Frames:
        """What a function gives of LR pictures, `scale` times their size, put together by cores."""
        frame = lr.shape[1:3]
        size = tuple(min(side, _ENCODER_TILE) for side in frame)
        made = jnp.zeros((len(lr), scale * frame[0], scale * frame[1], channels))
        made = jax.device_put(made, self._home)
        if not channels:
            return made
        for part in self._batches(cut(len(lr), frame, size, _ENCODER_HALO)):
            squares = self._taken(size, lr, part.corners)
            made = self._added(made, function(params, squares), part.times(scale))
        return made

    @property
    def _home(self) -> jax.Device:
        return self.mesh.devices.flat[0]

    def _taken(self, size: tuple[int, int], made: Array, corners: Int[Array, "n 3"]) -> Squares:
        return jax.device_put(frames.taken(size, made, corners), by_rows(self.mesh))

    def _added(self, made: Frames, squares: Squares, tiles: Tiles) -> Frames:
        squares = jax.device_put(squares, self._home)
        return frames.added(made, squares, tiles.corners, tiles.cores, tiles.ramps)

    def _batches(self, tiles: Tiles) -> list[Tiles]:
        """Tiles in batches of one size, which is smaller where there are fewer tiles."""
        devices = self.mesh.size
        size = min(self.batch, -(-len(tiles) // devices) * devices)
        return [tiles[i : i + size].filled(size) for i in range(0, len(tiles), size)]

    def _padded(self, pictures: UInt8[Array, "P h w C"], scale: int) -> UInt8[Array, "P H W C"]:
        """Pictures, of LR size times `scale`, mirrored at the right and below to a tile's size."""
        least = scale * (self.tile // self.method.scale)
        missing = [max(0, least - side) for side in pictures.shape[1:3]]
        around = ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))
        return np.pad(pictures, around, "symmetric")


class _Kept:
    """Conditions of batches of tiles, made when they are first needed and kept while they fit."""

    def __init__(self, make: Callable[[Int[Array, "n 3"]], PyTree]) -> None:
        self._make, self._kept, self._room = make, {}, _CONDITION_BYTES

    def __call__(self, index: int, corners: Int[Array, "n 3"]) -> PyTree:
        if index in self._kept:
            return self._kept[index]
        condition = self._make(corners)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(condition))
        if size <= self._room:
            self._room -= size
            self._kept[index] = condition
        return condition
