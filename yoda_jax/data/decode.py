"""One picture file to 8-bit RGB, as an image viewer shows it."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, features

from yoda_jax.data import containers, deep
from yoda_jax.data.colour import png_transfer, to_srgb
from yoda_jax.data.levels import Unusable, to_image
from yoda_jax.errors import UserError

MAX_PIXELS = 250_000_000  # telephones take 200
# An explicit list: some of Pillow's other plugins start programs (EPS runs Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
FORMATS += ("AVIF",) if features.check("avif") else ()

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNDAMAGED = f"is an undamaged {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"


class BadPicture(UserError):
    """A picture that cannot be decoded: `name` is the file's, `why` completes "... because"."""

    def __init__(self, name: str, why: str):
        super().__init__(name, why)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return f"picture {self.name} cannot be used because {self.why}; mend, replace or remove it."


@contextlib.contextmanager
def silent_decoders() -> Iterator[None]:
    """Keeps to itself what Pillow and tifffile report of odd metadata, in all threads.

    To be entered once around all pictures, not in each thread: it changes what the process shows.
    """
    log = logging.getLogger("tifffile")
    level = log.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def decode_picture(
    source: str | os.PathLike | bytes, name: str, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture file, given by its path or its bytes, to 8-bit sRGB.

    EXIF orientation is applied, an embedded ICC profile (of PNG also gAMA and cHRM) converted to
    sRGB, transparency composited over white, and of several frames the first taken. Above 8 bits,
    samples become shares of white (see `levels.white`) and are rounded to the nearest of 256.
    Damage that viewers do not show is passed over: metadata, or an end that is missing behind the
    last pixel.

    Raises `BadPicture` where the file is missing, damaged, no picture, of an unsupported colour
    mode or above `max_pixels`.
    """
    shown = picture_file(source, name, max_pixels)
    return np.array(shown.turned(_over_white(shown.image, shown.icc)))


class Shown(NamedTuple):
    """A picture file in its own mode, decoded, and how it is to be looked at."""

    image: Image.Image
    icc: bytes | None  # the profile of its colours
    turn: Image.Transpose | None  # that brings it upright

    def turned(self, image: Image.Image) -> Image.Image:
        """A picture made of this one, upright."""
        return image if self.turn is None else image.transpose(self.turn)


def picture_file(source: str | os.PathLike | bytes, name: str, max_pixels: int) -> Shown:
    """Decodes a picture file to 8 bits, in its own mode; raises as `decode_picture`."""
    try:
        file = source if isinstance(source, bytes) else Path(source).read_bytes()
        return _decode(file, max_pixels)
    except Unusable as unusable:
        raise BadPicture(name, str(unusable)) from unusable
    # A damaged file makes the decoders raise almost any exception.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadPicture(name, f"decoding failed ({detail}), check that it {_UNDAMAGED}") from error


def _decode(file: bytes, max_pixels: int) -> Shown:
    if not file:
        raise Unusable("the file is empty")
    chunks: dict[bytes, bytes] = {}
    if file.startswith(containers.PNG_SIGNATURE):
        file, chunks = containers.png(file)
    elif file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        file = containers.webp(file)
    try:
        return _shown(file, chunks, max_pixels)
    except OSError:
        if not (file.startswith(b"\xff\xd8") and containers.may_lack_its_end_alone(file)):
            raise
        # Where all pixels are there, anything may follow them.
        fillers = (b"", b"\x55\xaa" * 64)
        a, b = (_shown(file.rstrip(b"\xff") + f + b"\xff\xd9", {}, max_pixels) for f in fillers)
        if not np.array_equal(a.image, b.image):
            raise
        return a


def _shown(file: bytes, chunks: dict[bytes, bytes], max_pixels: int) -> Shown:
    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise Unusable(
                f"{width} x {height} exceeds the limit of {max_pixels} pixels; raise "
                "--config.data.max_megapixels"
            )

    image = _open(file)
    if image is not None:
        check_size(*image.size)
    profile = containers.png_profile(chunks)
    transfer = None if profile else png_transfer(chunks)
    if file[:2] in (b"II", b"MM") and (image is None or deep.is_deep_tiff(image)):
        image = deep.tiff(file, lambda: _open(file), check_size)
    elif image is None:
        raise Unusable(f"it is no picture, check that it {_UNDAMAGED}")
    orientation = _orientation(image)
    # Pillow turns TIFF upright itself and then forgets the tag, so it is read before and after.
    image.load()
    turn = _TRANSPOSE.get(orientation if _orientation(image) == orientation else 1)
    if chunks and chunks[b"IHDR"][8] == 16:
        image = deep.png(lambda: _open(file), chunks, transfer)
    elif transfer is not None:
        alpha = "A" if image.has_transparency_data else ""
        image = to_image(np.asarray(image.convert(f"RGB{alpha}")), alpha, transfer=transfer)
    profile = profile or image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = to_image(np.asarray(image)[..., None], bits=deep.significant_bits(image))
    return Shown(image, profile, turn)


def _open(file: bytes) -> Image.Image | None:
    """The picture, not yet decoded, or None.

    By the formats' own readers: `Image.open` has a limit of pixels for the whole process.
    """
    Image.init()
    for name in FORMATS:
        reader, accepts = Image.OPEN[name]
        if accepts(file[:16]):
            with contextlib.suppress(SyntaxError):  # what they raise for another format
                return reader(io.BytesIO(file), "")
    return None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's EXIF parser raises anything on a damaged block.
        return 1


def _over_white(image: Image.Image, icc: bytes | None) -> Image.Image:
    """A picture of any mode composited over white, in sRGB."""
    alpha, colour = alpha_of(image), to_srgb(colours_of(image), icc)
    if alpha is None:
        return colour
    return Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The opacity of a picture of any mode, None where it has none."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and image.format == "BMP" and not alpha.getbbox():
        return None  # writers that know no alpha leave its byte 0
    return alpha


def colours_of(image: Image.Image) -> Image.Image:
    """The same without opacity, of mode L, RGB or CMYK."""
    if image.mode == "P" and alpha_of(image) is not None:
        image = image.convert("RGBA")
    if image.mode == "CMYK":
        return image
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
