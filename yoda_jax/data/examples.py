"""From one picture to training examples: crop, degrade, attend, cut into tiles."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from yoda_jax.attention.maps import quantise
from yoda_jax.data.degrade import Border, downsample, fit, resize_photo
from yoda_jax.data.photos import BadPicture

Heads = Callable[[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "N h w"]]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a picture becomes examples.

    crop "fit" scales the shorter side to hr_size and cuts the centre (faces); "tiles" keeps the
    picture's scale and cuts squares of hr_size at every stride (photographs). The attention input
    is the up-sampled LR picture whose shorter side measures attention_input pixels.
    """

    crop: Literal["fit", "tiles"]
    hr_size: int
    stride: int
    scale: int
    border: Border
    attention_input: int


def examples(
    name: str, picture: UInt8[np.ndarray, "H W 3"], preparation: Preparation, heads: Heads
) -> Iterator[dict]:
    """The examples of one picture, in row-major order of their tiles.

    Each holds `hr`, `lr` (uint8), the attention heads of the whole picture (`attention` uint8
    N h w and `attention_scale` N) and its `place` in it (top, left, height and width of the
    picture, in HR pixels). Raises BadPicture where the picture is smaller than hr_size.
    """
    size, scale = preparation.hr_size, preparation.scale
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise BadPicture(name, f"it measures {width}x{height}, less than data.hr_size={size}")
    if preparation.crop == "fit":
        hr = fit(picture, size)
    else:
        hr = picture[: height - height % scale, : width - width % scale]
    height, width = hr.shape[:2]
    lr = downsample(hr, scale, preparation.border)
    attention, attention_scale = quantise(heads(attention_input(lr, preparation.attention_input)))
    for top in range(0, height - size + 1, preparation.stride):
        for left in range(0, width - size + 1, preparation.stride):
            yield {
                "name": name,
                "hr": hr[top : top + size, left : left + size],
                "lr": lr[
                    top // scale : (top + size) // scale, left // scale : (left + size) // scale
                ],
                "attention": attention,
                "attention_scale": attention_scale,
                "place": np.array([top, left, height, width], np.int32),
            }


def attention_input(
    lr: UInt8[np.ndarray, "h w 3"], shorter_side: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The LR picture, bicubically scaled so that its shorter side has the given length."""
    height, width = lr.shape[:2]
    factor = shorter_side / min(height, width)
    return resize_photo(lr, (round(height * factor), round(width * factor)))
