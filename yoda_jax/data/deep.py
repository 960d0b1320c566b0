"""Pictures of more than 8 bits a sample, of which Pillow keeps the upper 8."""

import io
import sys
from collections.abc import Callable

import numpy as np
import tifffile
from jaxtyping import Shaped, UInt16
from PIL import ExifTags, Image

from yoda_jax.data.levels import Transfer, Unusable, to_image

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_MAX, _TIFF_ICC = 258, 262, 281, 34675
# The extra sample of a TIFF: none of Pillow's, premultiplied or plain alpha.
_TIFF_ALPHA = {0: "", 1: "a", 2: "A"}
_CHANNELS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3}
_GREY, _RGB, _GREY_ALPHA, _RGBA = 0, 2, 4, 6  # of PNG's colour types
# The byte order that Pillow calls native ("N") and the other one, by which it keeps the lower 8.
_NATIVE = ("N", "B" if sys.byteorder == "little" else "L")

Open = Callable[[], Image.Image]


def png(reopen: Open, chunks: dict[bytes, bytes], transfer: Transfer | None) -> Image.Image:
    """A PNG of 16 bits a sample, given its chunks.

    Colours that fill their span keep their upper 8 bits, as many viewers do.
    """
    kind, bits, image = chunks[b"IHDR"][9], max(chunks.get(b"sBIT", b"\0")) % 16, reopen()
    if kind == _GREY:
        samples = np.asarray(image)[..., None]
    elif transfer is None and np.asarray(image)[..., :3].max() >= 2 ** (max(bits, 12) - 8):
        return image
    elif kind == _GREY_ALPHA:
        samples = _raw(reopen(), "RGBA", "RGBA").view(">u2")
    else:
        mode = "RGBA" if kind == _RGBA else "RGB"
        samples = _two_bytes(reopen, mode, "BL")
    if kind in (_GREY, _RGB) and b"tRNS" in chunks:
        clear = (samples == np.frombuffer(chunks[b"tRNS"], ">u2")).all(axis=2)
        samples = np.dstack([samples, np.where(clear, 0, 65535).astype(np.uint16)])
    return to_image(samples, "A" if samples.shape[2] in (2, 4) else "", bits, transfer=transfer)


def _raw(image: Image.Image, mode: str, rawmode: str) -> Shaped[np.ndarray, "H W C"]:
    """The bytes that Pillow unpacks in a mode which is not the picture's own."""
    image._mode = mode
    tile = image.tile[0]
    args = rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])
    image.tile = [tile._replace(args=args)]
    return np.array(image)


def _two_bytes(
    reopen: Open, mode: str, orders: tuple[str, str] | str
) -> UInt16[np.ndarray, "H W C"]:
    """16-bit samples, of which Pillow keeps the upper byte in one byte order and the lower in the
    other.
    """
    upper, lower = (_raw(reopen(), mode, f"{mode};16{order}") for order in orders)
    return upper * np.uint16(256) + lower


def is_deep_tiff(image: Image.Image) -> bool:
    """Whether Pillow would show a TIFF otherwise than it is.

    Above 8 bits a sample it cuts colours to their upper bytes, mixes those of separate planes up,
    takes unsigned 32-bit levels for signed and white-is-zero for black-is-zero.
    """
    tags = image.tag_v2
    wrong = image.mode in ("RGB", "RGBA", "RGBX", "I") or tags.get(_TIFF_PHOTOMETRIC) == 0
    return wrong and max(tags.get(_TIFF_BITS, (1,))) > 8


def significant_bits(image: Image.Image) -> int:
    """The bits that a grey TIFF's samples say they use; 0 where they say nothing."""
    tags = getattr(image, "tag_v2", {})
    largest = tags.get(_TIFF_MAX, 0)
    largest = max(largest) if isinstance(largest, tuple) else largest
    bits = int(largest).bit_length() or max(tags.get(_TIFF_BITS, (0,)))
    return bits if bits % 8 else 0


def tiff(file: bytes, reopen: Open, check_size: Callable[[int, int], None]) -> Image.Image:
    """The first page of a TIFF of a sample format that Pillow lacks, such as 16-bit RGB."""
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        page = tiff.pages[0]
        check_size(page.imagewidth, page.imagelength)
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        channels = _CHANNELS.get(photometric)
        extra = page.samplesperpixel - (channels or 0)
        if channels is None or page.axes not in ("YX", "YXS", "SYX") or extra not in (0, 1):
            raise Unusable(
                f"a TIFF of {photometric}, axes {page.axes} and {page.samplesperpixel} samples a "
                "pixel is neither grey nor RGB (with or without alpha)"
            )
        try:
            samples = page.asarray()
        except ValueError as error:
            # tifffile alone knows few compressions, Pillow's libtiff nearly all.
            if "imagecodecs" not in str(error):
                raise
            samples = _by_libtiff(reopen, page)
        else:
            samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
        alpha = _TIFF_ALPHA[page.extrasamples[0] if extra else 0]
        samples = samples.reshape(*samples.shape[:2], -1)[..., : channels + bool(alpha)]
        bits = page.tags.valueof(_TIFF_MAX, 0)
        bits = int(max(bits) if isinstance(bits, tuple) else bits).bit_length()
        image = to_image(samples, alpha, bits if bits % 8 else 0, photometric == "MINISWHITE")
        image.getexif()[ExifTags.Base.Orientation] = page.tags.valueof("Orientation", 1)
        image.info["icc_profile"] = page.tags.valueof(_TIFF_ICC)
    return image


def _by_libtiff(reopen: Open, page: tifffile.TiffPage) -> Shaped[np.ndarray, "H W *C"]:
    image = reopen()
    if image is not None and image.mode in ("I", "I;16", "F") and page.samplesperpixel == 1:
        return np.asarray(image).view(page.dtype)
    if image is None or page.bitspersample != 16 or page.samplesperpixel not in (3, 4):
        raise Unusable(
            f"a TIFF of {page.bitspersample} bits, {page.samplesperpixel} samples a pixel and "
            f"{tifffile.COMPRESSION(page.compression).name} compression is not supported; save it "
            "without compression or as PNG"
        )
    mode = "RGBA" if page.samplesperpixel == 4 else "RGB"
    return _two_bytes(reopen, mode, _NATIVE)
