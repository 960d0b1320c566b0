"""Every colour mode of a real photograph comes back as a viewer shows it."""

import io
import struct
import zlib

import numpy as np
import pytest
from picture_files import encode, encode_tiff
from PIL import Image, ImageCms, ImageOps
from skimage import data

from yoda_jax.data.decode import decode_picture

PHOTO = np.ascontiguousarray(data.coffee()[::4, ::4])  # 100 x 150 x 3, dark wood and white china
IMAGE = Image.fromarray(PHOTO)
GREY = np.asarray(IMAGE.convert("L"))
ALPHA = np.tile(np.linspace(0, 255, 150).astype(np.uint8), (100, 1))


pytestmark = pytest.mark.filterwarnings("ignore:::PIL.*")


def assert_shows(file, expected, bound):
    """The decoded file is within `bound` levels of the picture expected (grey ones too)."""
    rgb = decode_picture(file, "picture")
    assert rgb.dtype == np.uint8 and rgb.flags.writeable
    expected = np.asarray(expected)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    assert rgb.shape == expected.shape
    assert np.abs(rgb.astype(float) - expected).max() <= bound


def over_white(colour, alpha=ALPHA):
    opacity = alpha[..., None] / 255
    colour = colour if colour.ndim == 3 else np.repeat(colour[..., None], 3, axis=2)
    return colour * opacity + 255 * (1 - opacity)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_rgb_is_exact(kind, options, tmp_path):
    file = encode(IMAGE, kind, **options)
    assert_shows(file, PHOTO, 0)
    path = tmp_path / "picture"
    path.write_bytes(file)
    assert_shows(str(path), PHOTO, 0)
    assert_shows(path, PHOTO, 0)


def test_jpeg_is_what_pillow_decodes():
    file = encode(IMAGE, "JPEG", quality=95)
    assert_shows(file, Image.open(io.BytesIO(file)), 0)
    assert_shows(encode(IMAGE.convert("L"), "JPEG", quality=100), GREY, 2)


def test_grey_and_one_bit():
    assert_shows(encode(IMAGE.convert("L"), "PNG"), GREY, 0)
    one_bit = IMAGE.convert("1")
    assert_shows(encode(one_bit, "PNG"), one_bit.convert("L"), 0)
    assert_shows(encode(one_bit, "TIFF", compression="group4"), one_bit.convert("L"), 0)


def test_alpha_lies_over_white():
    rgba = Image.fromarray(np.dstack([PHOTO, ALPHA]))
    for kind in ("PNG", "TIFF"):
        assert_shows(encode(rgba, kind), over_white(PHOTO), 1)
    assert_shows(encode(rgba, "WEBP", lossless=True, exact=True), over_white(PHOTO), 1)
    grey_alpha = Image.merge("LA", (IMAGE.convert("L"), Image.fromarray(ALPHA)))
    assert_shows(encode(grey_alpha, "PNG"), over_white(GREY), 1)


def test_palette_and_its_transparency():
    palette = IMAGE.quantize(64)
    shown = np.asarray(palette.convert("RGB"))
    index = np.asarray(palette)
    assert_shows(encode(palette, "PNG"), shown, 0)
    assert_shows(encode(palette, "GIF"), shown, 0)
    one_clear = np.where((index == 7)[..., None], 255, shown)
    assert_shows(encode(palette, "PNG", transparency=7), one_clear, 0)
    opacities = np.linspace(0, 255, 64).astype(np.uint8)
    file = encode(palette, "PNG", transparency=opacities.tobytes())
    assert_shows(file, over_white(shown, opacities[index]), 1)


def test_colour_key_transparency():
    key = tuple(int(level) for level in PHOTO[10, 10])
    keyed = np.where(np.equal(PHOTO, key).all(axis=2, keepdims=True), 255, PHOTO)
    assert_shows(encode(IMAGE, "PNG", transparency=key), keyed, 0)


def test_cmyk_jpeg():
    cmyk = IMAGE.convert("CMYK")  # stored inverted, with an Adobe marker's convention
    assert_shows(encode(cmyk, "JPEG", quality=100, subsampling=0), PHOTO, 8)


def test_lab_tiff():
    assert_shows(encode(IMAGE.convert("LAB"), "TIFF"), PHOTO, 8)  # 8 bits of L, a and b


def test_ycck_jpeg():
    """YCCK holds YCbCr of the inverted CMY: a CMYK file with those planes and the marker's flag."""
    light = PHOTO.max(axis=2).clip(1)
    black, cmy = 255 - light, 255 - np.rint(255.0 * PHOTO / light[..., None]).astype(np.uint8)
    planes = np.asarray(Image.fromarray(cmy).convert("YCbCr"))
    stored = np.dstack([255 - planes, black])  # Pillow inverts all four when it writes
    stored = Image.frombytes("CMYK", IMAGE.size, stored.tobytes())
    file = encode(stored, "JPEG", quality=100, subsampling=0)
    marker = file.index(b"\xff\xee\x00\x0eAdobe")
    flag = marker + 15
    assert file[flag] == 0
    assert_shows(file[:flag] + b"\x02" + file[flag + 1 :], PHOTO, 12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(kind):
    rows = np.linspace(0, 65535, 15000).astype(np.uint16).reshape(100, 150)
    assert_shows(encode(Image.fromarray(rows), kind), np.rint(rows / 257), 0)
    assert_shows(encode(Image.fromarray(GREY.astype(np.uint16) * 257), kind), GREY, 0)


def test_sixteen_bit_rgb_png_keeps_the_upper_bits():
    deep = (PHOTO * 256.0 + 200).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 150, 100, 16, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        file += struct.pack(">I", len(body)) + kind + body + checksum
    assert_shows(file, PHOTO, 0)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bit_rgb_tiff(planar, byteorder):
    deep = PHOTO.astype(np.uint16) * 257 + 100  # rounds to the same levels
    samples = deep if planar == "contig" else np.moveaxis(deep, 2, 0)
    options = {"photometric": "rgb", "planarconfig": planar, "byteorder": byteorder}
    expected = np.rint(deep / 257)
    assert_shows(encode_tiff(samples, **options), expected, 0)
    assert_shows(encode_tiff(samples, compression="zlib", **options), expected, 0)


def test_sixteen_bit_rgba_tiff_lies_over_white():
    deep = np.dstack([PHOTO, ALPHA]).astype(np.uint16) * 257
    file = encode_tiff(deep, photometric="rgb", extrasamples=["unassalpha"])
    assert_shows(file, over_white(PHOTO), 1)
    premultiplied = np.dstack([PHOTO * (ALPHA / 255.0)[..., None], ALPHA]) * 257
    deep = np.rint(premultiplied).astype(np.uint16)
    file = encode_tiff(deep, photometric="rgb", extrasamples=["assocalpha"])
    assert_shows(file, over_white(PHOTO), 2)
    file = encode_tiff(deep, photometric="rgb", extrasamples=["unspecified"])
    assert_shows(file, np.rint(premultiplied[..., :3] / 257), 1)
    grey = np.dstack([GREY, ALPHA]).astype(np.uint16) * 257
    file = encode_tiff(grey, photometric="minisblack", extrasamples=["unassalpha"])
    assert_shows(file, over_white(GREY), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_tiff_spans_zero_to_one(dtype):
    bound = 1 if dtype == np.float16 else 0
    assert_shows(encode_tiff((GREY / 255).astype(dtype), photometric="minisblack"), GREY, bound)
    assert_shows(encode_tiff((PHOTO / 255).astype(dtype), photometric="rgb"), PHOTO, bound)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integer_tiff_of_32_bits_spans_what_it_needs(dtype):
    for span in (255, 65535, np.iinfo(dtype).max):
        samples = np.rint(GREY * (span / 255.0)).astype(dtype)
        assert samples.max() > span // 257 or span == 255
        assert_shows(encode_tiff(samples, photometric="minisblack"), GREY, 0)


def test_minimum_is_white_tiff_is_inverted():
    assert_shows(encode_tiff(255 - GREY, photometric="miniswhite"), GREY, 0)
    for deep in ((255 - GREY).astype(np.uint16) * 257, (255 - GREY) / np.float32(255)):
        assert_shows(encode_tiff(deep, photometric="miniswhite"), GREY, 0)


def test_first_of_several_frames():
    other = ImageOps.invert(IMAGE)
    for kind in ("TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = encode(IMAGE, kind, save_all=True, append_images=[other], **options)
        assert Image.open(io.BytesIO(file)).n_frames == 2
        assert_shows(file, PHOTO, 0)


# EXIF orientation: where the stored row 0 and column 0 lie on the upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation):
    stored = np.ascontiguousarray(STORED[orientation](PHOTO))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        assert_shows(encode(Image.fromarray(stored), kind, exif=exif), PHOTO, 0)
    jpeg = encode(Image.fromarray(stored), "JPEG", exif=exif, quality=100, subsampling=0)
    assert_shows(jpeg, PHOTO, 4)
    tag = [(0x0112, "H", 1, orientation, True)]
    deep = encode_tiff(stored.astype(np.uint16) * 257, photometric="rgb", extratags=tag)
    assert_shows(deep, PHOTO, 0)


def test_damaged_exif_is_ignored():
    file = encode(IMAGE, "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\x12")
    assert_shows(file, PHOTO, 0)


def profile_with_swapped_primaries():
    """An sRGB profile whose red and blue colorants are exchanged: a visible, exact change."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = icc.index(b"rXYZ"), icc.index(b"bXYZ")
    icc[red : red + 4], icc[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(icc)


def test_icc_profile_is_converted_to_srgb():
    swapped = profile_with_swapped_primaries()
    assert_shows(encode(IMAGE, "PNG", icc_profile=swapped), PHOTO[..., ::-1], 2)
    rgba = Image.fromarray(np.dstack([PHOTO, ALPHA]))
    file = encode(rgba, "PNG", icc_profile=swapped)
    assert_shows(file, over_white(PHOTO[..., ::-1]), 3)
    palette = IMAGE.quantize(64)
    expected = np.asarray(palette.convert("RGB"))[..., ::-1]
    assert_shows(encode(palette, "PNG", icc_profile=swapped), expected, 2)
    deep = PHOTO.astype(np.uint16) * 257
    file = encode_tiff(deep, photometric="rgb", iccprofile=swapped)
    assert_shows(file, PHOTO[..., ::-1], 2)
    # Neutral colours are the same under both profiles.
    assert_shows(encode(IMAGE.convert("L"), "PNG", icc_profile=swapped), GREY, 1)
    assert_shows(encode(IMAGE.convert("L"), "TIFF", icc_profile=swapped), GREY, 1)


def test_srgb_profile_changes_nothing():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_shows(encode(IMAGE, "PNG", icc_profile=icc), PHOTO, 1)


def test_broken_or_foreign_profile_is_ignored():
    icc = profile_with_swapped_primaries()
    for broken in (b"no profile", icc[:200], icc[:16] + b"CMYK" + icc[20:], icc[:16] + b"????"):
        assert_shows(encode(IMAGE, "PNG", icc_profile=broken), PHOTO, 0)
