"""From one picture to training examples: crop, degrade, attend, cut into tiles."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from yoda_jax.attention.maps import quantise
from yoda_jax.data.degrade import downsample, fit, resize_photo
from yoda_jax.data.photos import BadPicture
from yoda_jax.pictures import Resampling


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a picture becomes examples.

    crop "fit" scales the shorter side to hr_size and cuts the centre (faces); "tiles" keeps the
    picture's scale and cuts squares of hr_size at every stride (photographs). The attention input
    is the up-sampled LR picture: its shorter side measures attention_input pixels, the other is a
    multiple of attention_stride (see attention_input). With attention_input 0 it is the LR picture.
    """

    crop: Literal["fit", "tiles"]
    hr_size: int
    stride: int
    scale: int
    resampling: Resampling
    attention_input: int
    attention_stride: int


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A picture as it is before anything is known of its attention: `input` is what is looked at.

    `hr` and `lr` are whole, uint8, and sizes of hr are multiples of the scale.
    """

    name: str
    hr: UInt8[np.ndarray, "H W 3"]
    lr: UInt8[np.ndarray, "h w 3"]
    input: UInt8[np.ndarray, "A B 3"]


def prepare(name: str, picture: UInt8[np.ndarray, "H W 3"], preparation: Preparation) -> Prepared:
    """Crops and degrades a picture; raises BadPicture where it is smaller than hr_size."""
    size, scale = preparation.hr_size, preparation.scale
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise BadPicture(name, f"it measures {width}x{height}, less than data.hr_size={size}")
    if preparation.crop == "fit":
        hr = fit(picture, size)
    else:
        hr = picture[: height - height % scale, : width - width % scale]
    lr = downsample(hr, scale, preparation.resampling)
    return Prepared(
        name, hr, lr, attention_input(lr, preparation.attention_input, preparation.attention_stride)
    )


def examples(
    prepared: Prepared, heads: Float[np.ndarray, "N h w"], preparation: Preparation
) -> Iterator[dict]:
    """The examples of one picture, in row-major order of their tiles.

    Each holds `hr`, `lr` (uint8), the attention heads of the whole picture (`attention` uint8
    N h w and `attention_scale` N) and its `place` in it (top, left, height and width of the
    picture, in HR pixels).
    """
    hr, lr, size, scale = prepared.hr, prepared.lr, preparation.hr_size, preparation.scale
    height, width = hr.shape[:2]
    attention, attention_scale = quantise(heads)
    for top in range(0, height - size + 1, preparation.stride):
        for left in range(0, width - size + 1, preparation.stride):
            yield {
                "name": prepared.name,
                "hr": hr[top : top + size, left : left + size],
                "lr": lr[
                    top // scale : (top + size) // scale, left // scale : (left + size) // scale
                ],
                "attention": attention,
                "attention_scale": attention_scale,
                "place": np.array([top, left, height, width], np.int32),
            }


def attention_input(
    lr: UInt8[np.ndarray, "h w 3"], shorter_side: int, stride: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The LR picture, bicubically scaled so that its shorter side has the given length.

    With length 0 it stays as it is. The longer side becomes a multiple of the stride in steps of at
    least an eighth of the shorter one, so that pictures of many shapes make inputs of few, and at
    most four times as long; the picture is stretched a little accordingly. With stride 1 it keeps
    its shape, and the longer side bounds the shorter one, down to 8 pixels.
    """
    if shorter_side == 0:
        return lr
    sides = np.array(lr.shape[:2])
    excess, longest = shorter_side * (sides / sides.min() - 1), 4 * shorter_side
    if stride == 1:
        shape = shorter_side + np.rint(excess)
        if shape.max() > longest:
            shape = np.maximum(np.rint(shape * longest / shape.max()), min(8, shorter_side))
    else:
        step = stride * max(1, shorter_side // stride // 8)
        shape = shorter_side + np.rint(np.minimum(excess, 3 * shorter_side) / step) * step
    height, width = shape
    return resize_photo(lr, (int(height), int(width)))
