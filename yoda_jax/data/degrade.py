"""The LR picture of a photograph, by the bicubic rules of `yoda_jax.pictures`."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from yoda_jax.errors import UserError
from yoda_jax.pictures import Resampling, resize_matrix


def downsample(
    hr: UInt8[np.ndarray, "H W 3"], scale: int, resampling: Resampling
) -> UInt8[np.ndarray, "h w 3"]:
    """The LR picture of `hr`: antialiased bicubic, h = H / scale and w = W / scale.

    "pil" is Pillow's own resize; "matlab" is `imresize(hr, 1/scale)` of the SRDiff reference.
    Raises `UserError` where H or W is not divisible by the scale.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise UserError(
            f"a picture of {height} x {width} cannot be reduced by scale {scale}: crop its height "
            "and width to multiples of the scale."
        )
    if resampling == "pil":
        return resize_photo(hr, (height // scale, width // scale))
    rows = resize_matrix(height, height // scale, resampling)
    columns = resize_matrix(width, width // scale, resampling)
    lr = _levels(np.tensordot(rows, hr.astype(np.float64), axes=(1, 0)))
    return _levels(np.einsum("qw,hwc->hqc", columns, lr, optimize=True)).astype(np.uint8)


def _levels(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The nearest of 0..255; halves go to the even level, as in the SRDiff reference (numpy)."""
    return np.clip(np.rint(x), 0, 255)


def resize_photo(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Pillow's antialiased bicubic resize to `size` = (height, width)."""
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fit(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The shorter side resized to `size`, then the centre square (SR3 reference, prepare_data.py).

    Sizes and offsets round as torchvision's Resize and CenterCrop do.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resize_photo(image, (height, width))[top : top + size, left : left + size]
