"""Small pictures of every container and depth, and what reads them."""

import struct

import numpy as np
from picture_files import chunk, encode, encode_lzw_tiff, encode_png, encode_tiff
from PIL import Image, ImageCms
from skimage import data

from yoda_jax.data.decode import decode_picture

PHOTO = np.ascontiguousarray(data.coffee()[100:116, 100:124])  # 16 x 24 x 3
IMAGE = Image.fromarray(PHOTO)
MAX_PIXELS = 1 << 20


def picture(file: bytes) -> None:
    """Decodes a picture."""
    shown = decode_picture(file, "picture", MAX_PIXELS)
    assert shown.dtype == np.uint8 and shown.shape[2:] == (3,) and shown.size <= 3 * MAX_PIXELS


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pngs() -> list[bytes]:
    """Of every depth and colour type, with the chunks that decide how they look."""
    rgba = IMAGE.convert("RGBA")
    rgba.putalpha(IMAGE.convert("L"))
    deep = PHOTO.astype(np.uint16) * 257
    gamma = struct.pack(">I", 50_000)
    return [
        encode(IMAGE, "PNG", icc_profile=_icc(), exif=_exif(6)),
        encode(IMAGE.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        encode(rgba, "PNG"),
        encode(IMAGE.convert("L"), "PNG", transparency=7),
        encode(IMAGE.convert("1"), "PNG"),
        encode_png(deep[..., :1]),
        encode_png(deep, chunk(b"gAMA", gamma), chunk(b"tRNS", bytes(6))),
        encode_png(np.dstack([deep, deep[..., :1]]), chunk(b"sBIT", b"\12\12\12\12")),
        encode_png(deep[..., :2]),
        encode_png(deep, chunk(b"cHRM", struct.pack(">8I", *range(30_000, 38_000, 1000)))),
    ]


def split_png(file: bytes) -> list[bytes]:
    """The kinds and bodies of the chunks."""
    parts, position = [], 8
    while position + 8 <= len(file):
        (length,) = struct.unpack_from(">I", file, position)
        parts.append(file[position + 4 : position + 8 + length])
        position += 12 + length
    return parts


def join_png(parts: list[bytes]) -> bytes:
    """A PNG of kinds and bodies, with the right lengths and checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(part[:4], part[4:]) for part in parts)


def jpegs() -> list[bytes]:
    """Baseline, progressive, grey, CMYK, and with restart markers."""
    return [
        encode(IMAGE, "JPEG", exif=_exif(6), icc_profile=_icc()),
        encode(IMAGE, "JPEG", progressive=True),
        encode(IMAGE.convert("L"), "JPEG", optimize=True),
        encode(IMAGE.convert("CMYK"), "JPEG"),
        encode(IMAGE, "JPEG", subsampling=0, restart_marker_blocks=1),
    ]


def tiffs() -> list[bytes]:
    """Of Pillow and tifffile: depths, compressions, planes, tiles, both byte orders."""
    deep = PHOTO.astype(np.uint16) * 257
    planes = np.moveaxis(deep, -1, 0)
    return [
        *(encode(IMAGE, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "tiff_deflate")),
        encode(IMAGE, "TIFF", compression="jpeg"),
        encode(IMAGE.convert("1"), "TIFF", compression="group4"),
        encode(IMAGE.convert("CMYK"), "TIFF"),
        encode(IMAGE.quantize(16), "TIFF"),
        encode_tiff(deep, photometric="rgb"),
        encode_tiff(planes.copy(), photometric="rgb", planarconfig="separate"),
        encode_tiff(deep, photometric="rgb", compression="zlib", predictor=True),
        encode_tiff(deep, photometric="rgb", tile=(16, 16), bigtiff=True),
        encode_tiff(deep[..., 0], photometric="miniswhite", byteorder=">"),
        encode_tiff((PHOTO / 255).astype(np.float32), photometric="rgb"),
        encode_lzw_tiff(deep, predictor=True),
    ]


def others(kind: str) -> list[bytes]:
    """Of the remaining containers, by Pillow's name."""
    rgba = IMAGE.convert("RGBA")
    rgba.putalpha(IMAGE.convert("L"))
    grey, palette = IMAGE.convert("L"), IMAGE.quantize(16)
    return {
        "WEBP": lambda: [
            encode(IMAGE, "WEBP", exif=_exif(6), icc_profile=_icc()),
            encode(rgba, "WEBP", lossless=True),
            encode(IMAGE, "WEBP", save_all=True, append_images=[grey.convert("RGB")]),
        ],
        "BMP": lambda: [encode(i, "BMP") for i in (IMAGE, grey, palette, IMAGE.convert("1"), rgba)],
        "GIF": lambda: [
            encode(palette, "GIF", transparency=3),
            encode(IMAGE, "GIF", save_all=True, append_images=[grey]),
        ],
        "PPM": lambda: [
            *(encode(i, "PPM") for i in (IMAGE, grey, IMAGE.convert("1"))),
            b"P3\n# text\n2 2\n255\n" + b"1 2 3 " * 4,
            b"P5 4 2 65535\n" + bytes(range(16)),
            b"Pf\n4 2\n-1.0\n" + np.linspace(0, 1, 8, dtype="<f4").tobytes(),
        ],
        "JPEG2000": lambda: [
            encode(IMAGE, "JPEG2000"),
            encode(rgba, "JPEG2000", irreversible=True, quality_layers=[20]),
            encode(grey, "JPEG2000", no_jp2=True),
        ],
        "AVIF": lambda: [encode(IMAGE, "AVIF", exif=_exif(6)), encode(rgba, "AVIF")],
    }[kind]()
