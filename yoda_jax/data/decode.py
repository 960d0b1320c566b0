"""One picture file to 8-bit RGB, as an image viewer shows it."""

import io
import logging
import os
import warnings
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from yoda_jax.errors import UserError

MAX_PIXELS = 100_000_000
# An explicit list: some of Pillow's other plugins start programs (EPS runs Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_MODE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_TIFF_BITS_TAG, _TIFF_PHOTOMETRIC_TAG, _TIFF_ICC_TAG = 258, 262, 34675
# The extra sample of a TIFF: none of Pillow's, premultiplied or plain alpha.
_TIFF_ALPHA = {0: "", 1: "a", 2: "A"}
_UNDAMAGED = "is an undamaged PNG, JPEG, WebP, BMP, TIFF or GIF file"

# Both libraries report odd metadata of pictures that decode well. A filter set once is safe in
# worker threads; `warnings.catch_warnings` around each picture is not.
warnings.filterwarnings("ignore", module=r"PIL\b")
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class BadPicture(UserError):
    """A picture that cannot be decoded: `name` is the file's, `why` completes "... because"."""

    def __init__(self, name: str, why: str):
        super().__init__(name, why)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return f"picture {self.name} cannot be used because {self.why}; mend, replace or remove it."


def decode_picture(source: str | os.PathLike | bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture file, given by its path or its bytes, to 8-bit sRGB.

    EXIF orientation is applied, an embedded ICC profile converted to sRGB, transparency composited
    over white, and of several frames the first taken. Integers span their type: 16 bits are divided
    by 257 and rounded. Of 32-bit integers the span is the narrowest of 8, 16 and 32 bits that holds
    every sample, because writers of such files rarely use them all. Floats must lie in [0, 1].
    PNG with 16 bits a colour channel keeps the upper 8 (Pillow).

    Raises `BadPicture` where the file is missing, damaged, no picture, of an unsupported colour
    mode or above `MAX_PIXELS`.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            return _decode(stream, name)
    except BadPicture:
        raise
    except Image.DecompressionBombError as error:
        raise BadPicture(name, f"it has more than the limit of {MAX_PIXELS} pixels") from error
    # A damaged file makes the decoders raise almost any exception.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadPicture(name, f"decoding failed ({detail}), check that it {_UNDAMAGED}") from error


def _decode(stream: BinaryIO, name: str) -> UInt8[np.ndarray, "H W 3"]:
    head = stream.read(4)
    stream.seek(0)
    if not head:
        raise BadPicture(name, "the file is empty")
    with _open(stream, head, name) as image:
        _check_size(image.width, image.height, name)
        orientation = _orientation(image)
        # Pillow turns TIFF upright itself and then forgets the tag, so it is read before and after.
        image.load()
        upright = _TRANSPOSE.get(orientation if _orientation(image) == orientation else 1)
        rgb = _over_white(image, name)
        return np.array(rgb if upright is None else rgb.transpose(upright))


def _open(stream: BinaryIO, head: bytes, name: str) -> Image.Image:
    is_tiff = head[:2] in (b"II", b"MM")
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        if not is_tiff:
            raise BadPicture(name, f"it is no picture, check that it {_UNDAMAGED}") from error
    else:
        # Above 8 bits a sample, Pillow cuts colours to their upper bytes, mixes those of separate
        # planes up, takes unsigned 32-bit levels for signed and white-is-zero for black-is-zero.
        tags = image.tag_v2 if is_tiff else {}
        wrong = image.mode in ("RGB", "RGBA", "RGBX", "I") or tags.get(_TIFF_PHOTOMETRIC_TAG) == 0
        if not (wrong and max(tags.get(_TIFF_BITS_TAG, (1,))) > 8):
            return image
    stream.seek(0)
    return _open_deep_tiff(stream, name)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture(name, f"{width} x {height} exceeds the limit of {MAX_PIXELS} pixels")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's EXIF parser raises anything on a damaged block.
        return 1


def _open_deep_tiff(stream: BinaryIO, name: str) -> Image.Image:
    """The first page of a TIFF of a sample format that Pillow lacks, such as 16-bit RGB."""
    with tifffile.TiffFile(stream) as tiff:
        page = tiff.pages[0]
        _check_size(page.imagewidth, page.imagelength, name)
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        channels = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3}.get(photometric)
        extra = page.samplesperpixel - (channels or 0)
        if channels is None or page.axes not in ("YX", "YXS", "SYX") or extra not in (0, 1):
            raise BadPicture(
                name,
                f"a TIFF of {photometric}, axes {page.axes} and {page.samplesperpixel} samples a "
                "pixel is neither grey nor RGB (with or without alpha)",
            )
        samples = page.asarray()
        if page.axes == "SYX":
            samples = np.moveaxis(samples, 0, -1)
        levels = _to_levels(samples.reshape(*samples.shape[:2], -1), name)
        if photometric == "MINISWHITE":
            levels[..., 0] = 255 - levels[..., 0]
        alpha = _TIFF_ALPHA[page.extrasamples[0] if extra else 0]
        mode = ("L" if channels == 1 else "RGB") + alpha
        levels = levels[..., : len(mode)]
        image = Image.frombytes(mode, levels.shape[1::-1], levels.tobytes())
        image = image.convert(mode.upper())
        image.getexif()[ExifTags.Base.Orientation] = page.tags.valueof("Orientation", 1)
        image.info["icc_profile"] = page.tags.valueof(_TIFF_ICC_TAG)
    return image


def _to_levels(samples: np.ndarray, name: str) -> UInt8[np.ndarray, "..."]:
    """Samples of any number type to levels 0..255, by the rule in `decode_picture`."""
    low, high = float(samples.min()), float(samples.max())
    if samples.dtype.kind == "f":
        # Half a level outside [0, 1] still rounds to a level inside.
        if not (low >= -0.5 / 255 and high <= 1 + 0.5 / 255):
            raise BadPicture(name, f"its float samples span {low:g}..{high:g} instead of 0..1")
        white = 1.0
    else:
        if low < 0:
            raise BadPicture(name, f"its integer samples are negative (down to {low:g})")
        white = float(np.iinfo(samples.dtype).max)
        if samples.dtype.itemsize == 4:
            white = next((span for span in (255.0, 65535.0) if high <= span), white)
        elif samples.dtype.kind == "i":
            raise BadPicture(name, f"its {samples.dtype} samples have no defined white")
    return np.clip(np.floor(samples * (255 / white) + 0.5), 0, 255).astype(np.uint8)


def _over_white(image: Image.Image, name: str) -> Image.Image:
    """A picture of any mode composited over white, in sRGB."""
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_levels(np.asarray(image), name))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    grey = image.mode in ("1", "L", "LA", "La")
    colour = image if image.mode == "CMYK" else image.convert("L" if grey else "RGB")
    colour = _to_srgb(colour, icc)
    if alpha is None:
        return colour
    return Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """An L, RGB or CMYK picture to sRGB; a broken profile or one of another mode is ignored."""
    if icc:
        with suppress(OSError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            mode = _PROFILE_MODE.get(profile.profile.xcolor_space.strip())
            if mode == image.mode or (mode, image.mode) == ("RGB", "L"):
                return ImageCms.profileToProfile(
                    image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
    return image.convert("RGB")
