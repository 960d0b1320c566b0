"""Sheets of pictures: columns side by side, a picture a row."""

import io
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from yoda_jax.diffusion.mask import area_mask, diffused_steps

_MARGIN, _HEADER = 4, 14  # pixels between the pictures and above the columns
_MASK_TIMES = (90, 50, 20, 5)  # of a chain of 100 steps, at which masks are shown


def picture_sheet(
    columns: Mapping[str, Sequence[UInt8[np.ndarray, "h w c"]]], size: int
) -> Image.Image:
    """Pictures in labelled columns, a picture a row, scaled into size x size by copying pixels."""
    rows = len(next(iter(columns.values())))
    step = size + _MARGIN
    sheet = Image.new(
        "RGB", (_MARGIN + step * len(columns), _HEADER + _MARGIN + step * rows), "lightgrey"
    )
    draw = ImageDraw.Draw(sheet)
    for i, (label, pictures) in enumerate(columns.items()):
        left = _MARGIN + step * i
        draw.text((left, 1), label, fill="black")
        for j, picture in enumerate(pictures):
            image = Image.fromarray(np.repeat(picture, 3 // picture.shape[-1], axis=-1))
            factor = size / max(image.size)
            fitted = tuple(max(round(n * factor), 1) for n in image.size)
            image = image.resize(fitted, Image.Resampling.NEAREST)
            sheet.paste(image, (left, _HEADER + step * j))
    return sheet


def mask_columns(
    attention: UInt8[np.ndarray, "B H W 1"], lower_bound: float
) -> dict[str, UInt8[np.ndarray, "B H W 1"]]:
    """M(t) of each map at four times, white where it is diffused, under the columns' labels."""
    steps = diffused_steps(jnp.asarray(attention, jnp.float32) / 255, lower_bound, 100)
    masks = {t: area_mask(steps, jnp.full(len(steps), t)) for t in _MASK_TIMES}
    return {f"M({t / 100:g}T)": np.asarray(m).astype(np.uint8) * 255 for t, m in masks.items()}


def encoded(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()
