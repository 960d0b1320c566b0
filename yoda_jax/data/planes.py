"""A user's own picture: its colours for a network, and what is kept beside them for the result."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from yoda_jax.data.colour import to_srgb
from yoda_jax.data.decode import MAX_PIXELS, Shown, alpha_of, colours_of, picture_file
from yoda_jax.errors import UserError
from yoda_jax.runs import located, write_whole

# Ending of a file that is written -> (Pillow's format, options but for the quality).
WRITTEN = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"subsampling": 0}),
    ".jpeg": ("JPEG", {"subsampling": 0}),
    ".webp": ("WEBP", {}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
    ".bmp": ("BMP", {}),
}
_MOST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side
_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_WITH_QUALITY = ("JPEG", "WEBP")


@dataclasses.dataclass(frozen=True)
class Planes:
    """Colours in 8 bits, opacity, whether the picture is grey, and the profile of its colours."""

    colours: UInt8[np.ndarray, "H W 3"]
    alpha: Image.Image | None
    grey: bool
    icc: bytes | None

    @classmethod
    def of_file(cls, path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Self:
        """Of a picture file, upright; raises BadPicture where it cannot be decoded."""
        return cls.of(picture_file(path, os.path.basename(path), max_pixels))

    @classmethod
    def of_image(cls, image: Image.Image) -> Self:
        """Of a picture in memory, as it lies."""
        return cls.of(Shown(image, image.info.get("icc_profile"), None))

    @classmethod
    def of(cls, shown: Shown) -> Self:
        """Colours stay in their own space, whose profile is kept; CMYK alone becomes sRGB."""
        colours, alpha, icc = colours_of(shown.image), alpha_of(shown.image), shown.icc
        grey = colours.mode == "L"
        if colours.mode == "CMYK":
            colours, icc = to_srgb(colours, icc), None
        upright = np.array(shown.turned(colours.convert("RGB")))
        return cls(upright, None if alpha is None else shown.turned(alpha), grey, icc)

    def enlarged(self, colours: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
        """The result as a picture of this one's kind: grey again, with opacity (by bicubic)."""
        image = Image.fromarray(colours)
        if self.grey:
            # The network's three channels of a grey picture differ by little.
            image = Image.fromarray(np.rint(colours.mean(-1)).astype(np.uint8))
        if self.alpha is not None:
            image.putalpha(self.alpha.resize(image.size, Image.Resampling.BICUBIC))
        if self.icc:
            image.info["icc_profile"] = self.icc
        return image


def check_size(size: tuple[int, int], path: str | os.PathLike) -> None:
    """Raises UserError where a picture of `size` is too large for the format of a name's ending."""
    kind, _ = WRITTEN[Path(path).suffix.lower()]
    if max(size) > (most := _MOST.get(kind, max(size))):
        raise UserError(
            f"{path} must be at most {most} pixels a side, as {kind} is, and would be of "
            f"{size[0]}x{size[1]}; let its name end in .png or .tif."
        )


def write_picture(image: Image.Image, path: str | os.PathLike, quality: int) -> None:
    """Writes a picture, whole or not at all, in the format of the name's ending (see WRITTEN).

    quality: of JPEG and WebP, 1..100. A format without opacity gets the picture over white.
    """
    place = located(path)
    kind, options = WRITTEN[Path(path).suffix.lower()]
    profile = image.info.get("icc_profile")
    if kind not in _WITH_ALPHA and "A" in image.getbands():
        opacity, colour = image.getchannel("A"), image.convert(image.mode[:-1])
        image = Image.composite(colour, Image.new(colour.mode, colour.size, "white"), opacity)
    buffer = io.BytesIO()
    if kind in _WITH_QUALITY:
        options = {**options, "quality": quality}
    image.save(buffer, kind, icc_profile=profile, **options)
    write_whole(place, buffer.getvalue())
