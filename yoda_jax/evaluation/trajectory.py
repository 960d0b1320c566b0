"""A picture on its way through the chain, as a film."""

import io
import os

import numpy as np
from PIL import Image

from yoda_jax.arrays import Array
from yoda_jax.diffusion.mask import area_mask
from yoda_jax.diffusion.noising import blend
from yoda_jax.errors import UserError
from yoda_jax.method import Method
from yoda_jax.pictures import to_uint8
from yoda_jax.runs import located, write_whole
from yoda_jax.yoda import Yoda

_HEIGHT = 320  # of a frame, at most
_MILLISECONDS, _LAST = 120, 2000  # for which a frame is shown


class Trajectory:
    """Collects, step by step, side by side: the state, the mask, and the picture predicted.

    Of a result of `size` = (H, W), which its frames may be larger than.
    """

    def __init__(self, method: Method, size: tuple[int, int]) -> None:
        """Raises UserError where the method does not diffuse."""
        if not isinstance(method, Yoda):
            raise UserError("--trajectory needs a network that diffuses, found one that does not.")
        self._decode, self._size = method.formulation.decode, size
        self._frames: list[Image.Image] = []

    def __call__(self, t: int, steps: Array, state: tuple[Array, Array], lr_up: Array) -> None:
        """Takes the state at t, as `Tiled` shows it."""
        height, width = self._size
        z, y0, steps, lr_up = (x[:, :height, :width] for x in (*state, steps, lr_up))
        inside = area_mask(steps, np.array([t + 1]))
        predicted = blend(inside, self._decode(y0, lr_up), lr_up)
        mask = np.repeat(255 * np.asarray(inside[0], np.uint8), 3, axis=-1)
        seen = to_uint8(self._decode(z, lr_up))[0], mask, to_uint8(predicted)[0]
        frame = Image.fromarray(np.concatenate([np.asarray(part) for part in seen], axis=1))
        frame.thumbnail((10 * _HEIGHT, _HEIGHT))
        self._frames.append(frame)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the film as an animated GIF; raises UserError where no step was taken."""
        if not self._frames:
            raise UserError("--trajectory shows steps, found none: no pixel is diffused.")
        durations = [_MILLISECONDS] * (len(self._frames) - 1) + [_LAST]
        buffer, first = io.BytesIO(), self._frames[0]
        first.save(
            buffer, "GIF", save_all=True, append_images=self._frames[1:], duration=durations, loop=0
        )
        write_whole(located(path), buffer.getvalue())
