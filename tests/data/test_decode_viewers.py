"""Pictures that a viewer shows are decoded, and as it shows them."""

import io
import struct
import zlib

import numpy as np
import pytest
from picture_files import chunk, encode, encode_lzw_tiff, encode_png, encode_tiff, with_chunks
from PIL import Image, ImageCms
from skimage import data

from yoda_jax.data.decode import BadPicture, decode_picture

# What Pillow reports of odd metadata is of no interest here.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL.*")
PHOTO = np.ascontiguousarray(data.coffee()[::8, ::8])  # 50 x 75 x 3
IMAGE = Image.fromarray(PHOTO)
GREY = np.asarray(IMAGE.convert("L"))[..., None]
ALPHA = np.tile(np.linspace(0, 255, 75).astype(np.uint8), (50, 1))[..., None]
WHITE = 255 * (1 - ALPHA / 255)
PNG, JPEG = encode(IMAGE, "PNG"), encode(IMAGE, "JPEG", quality=95)
WEBP = encode(IMAGE, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")


def assert_shows(file, expected, bound):
    rgb = decode_picture(file, "picture").astype(float)
    assert rgb.shape == (*expected.shape[:2], 3)
    assert np.abs(rgb - expected).max() <= bound


# Deep samples: 16 bits from levels, or the fewer bits that a camera fills.


def deep(levels, bits=16):
    return np.rint(levels * ((2**bits - 1) / 255.0)).astype(np.uint16)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("bits", [16, 12])
def test_deep_tiff_in_lzw(predictor, bits):
    assert_shows(encode_lzw_tiff(deep(PHOTO, bits), predictor), PHOTO, 0)
    assert_shows(encode_lzw_tiff(deep(GREY, bits), predictor), GREY, 0)
    rgba = np.dstack([deep(PHOTO, bits), deep(ALPHA)])
    assert_shows(encode_lzw_tiff(rgba, predictor, 2), PHOTO * (ALPHA / 255) + WHITE, 1)
    assert_shows(encode_lzw_tiff(rgba, predictor, 0), PHOTO, 0)  # no alpha
    premultiplied = np.dstack([deep(PHOTO * (ALPHA / 255)), deep(ALPHA)])
    assert_shows(encode_lzw_tiff(premultiplied, predictor, 1), PHOTO * (ALPHA / 255) + WHITE, 2)


def test_integer_and_float_tiff_in_lzw():
    assert_shows(encode_lzw_tiff(deep(GREY).astype(np.uint32) * 65537), GREY, 0)
    assert_shows(encode_lzw_tiff((GREY / 255).astype(np.float32)), GREY, 0)
    with pytest.raises(BadPicture, match="a TIFF of 32 bits, 3 samples .* LZW .* save it without"):
        decode_picture(encode_lzw_tiff((PHOTO / 255).astype(np.float32)), "float.tif")


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_fewer_bits_in_16_are_not_black(bits):
    for levels in (GREY, PHOTO):
        samples = deep(levels, bits)
        assert_shows(encode_png(samples), levels, 0)
        kind = "rgb" if levels is PHOTO else "minisblack"
        assert_shows(encode_tiff(samples.squeeze(), photometric=kind), levels, 0)
    for levels in (GREY, PHOTO):
        opaque = np.full_like(GREY, 255)
        assert_shows(encode_png(np.dstack([deep(levels, bits), deep(opaque)])), levels, 0)
        over = levels * (ALPHA / 255) + WHITE
        both = np.dstack([deep(levels, bits), deep(ALPHA, bits)])
        assert_shows(encode_png(both), over, 1)


def test_declared_bits_hold_where_the_samples_fit():
    samples = deep(GREY, 14)
    assert_shows(encode_png(samples), GREY / 4, 1)  # a dark picture, unless it is said
    assert_shows(encode_png(samples, chunk(b"sBIT", b"\x0e")), GREY, 0)
    colours = encode_png(deep(PHOTO, 14), chunk(b"sBIT", b"\x0e\x0e\x0e"))
    assert_shows(colours, PHOTO, 0)
    tag = [(281, "H", 1, 2**14 - 1, True)]
    assert_shows(encode_tiff(samples[..., 0], photometric="minisblack", extratags=tag), GREY, 0)
    # By the standard, samples span the type whatever sBIT says.
    assert_shows(encode_png(deep(GREY), chunk(b"sBIT", b"\x0c")), GREY, 0)
    assert_shows(encode_png(deep(PHOTO), chunk(b"sBIT", b"\x0c\x0c\x0c")), PHOTO, 0)


def test_colour_key_of_16_bits():
    key = deep(PHOTO)[10, 10]
    expected = np.where((PHOTO == PHOTO[10, 10]).all(axis=2, keepdims=True), 255, PHOTO)
    linear = chunk(b"gAMA", struct.pack(">I", 45455))
    for chunks in ([], [linear]):
        file = encode_png(deep(PHOTO), *chunks, chunk(b"tRNS", key.astype(">u2").tobytes()))
        assert_shows(file, expected, 0)
    key = int(deep(GREY)[10, 10, 0])
    file = encode_png(deep(GREY), chunk(b"tRNS", struct.pack(">H", key)))
    assert_shows(file, np.where(GREY == GREY[10, 10], 255, GREY), 0)


# Colours of PNG without a profile.


def gamma(value):
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries(*xy):
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in xy)))


SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
BLUE_FIRST = (*SRGB[:2], *SRGB[6:], *SRGB[4:6], *SRGB[2:4])


def linear_light(levels):
    unit = levels / 255.0
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("levels", [PHOTO, GREY], ids=["colour", "grey"])
def test_linear_png_is_shown_in_srgb(levels):
    linear = np.rint(65535 * linear_light(levels)).astype(np.uint16)
    assert_shows(encode_png(linear, gamma(1)), levels, 1)
    shallow = Image.fromarray(np.rint(255 * linear_light(levels)).astype(np.uint8).squeeze())
    bright = levels > 100  # the dark ones are few in 8 linear bits
    found = decode_picture(with_chunks(encode(shallow, "PNG"), gamma(1)), "p")
    assert np.abs(found - levels.astype(float))[np.broadcast_to(bright, found.shape)].max() <= 2


def test_primaries_are_those_of_the_file():
    assert_shows(with_chunks(PNG, primaries(*BLUE_FIRST)), PHOTO[..., ::-1], 1)
    assert_shows(with_chunks(PNG, gamma(1 / 2.2), primaries(*BLUE_FIRST)), PHOTO[..., ::-1], 1)
    assert_shows(with_chunks(encode(IMAGE.convert("L"), "PNG"), primaries(*BLUE_FIRST)), GREY, 1)
    palette = IMAGE.quantize(32)
    expected = np.asarray(palette.convert("RGB"))[..., ::-1]
    assert_shows(with_chunks(encode(palette, "PNG"), primaries(*BLUE_FIRST)), expected, 1)


def test_white_of_the_file_stays_white():
    warm = (0.3457, 0.3585, *SRGB[2:])
    white = encode(Image.new("RGB", (8, 8), "white"), "PNG")
    assert_shows(with_chunks(white, primaries(*warm)), np.full((8, 8, 3), 255), 0)


def test_what_says_srgb_or_a_profile_comes_first():
    srgb = chunk(b"sRGB", b"\0")
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_shows(with_chunks(PNG, gamma(1), primaries(*BLUE_FIRST), srgb), PHOTO, 0)
    assert_shows(with_chunks(encode(IMAGE, "PNG", icc_profile=icc), gamma(1)), PHOTO, 1)
    for harmless in (gamma(1 / 2.2), gamma(0), primaries(*SRGB), primaries(*[0] * 8)):
        assert_shows(with_chunks(PNG, harmless), PHOTO, 0)


def test_a_large_profile_is_used():
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = icc.index(b"rXYZ"), icc.index(b"bXYZ")
    icc[red : red + 4], icc[blue : blue + 4] = b"bXYZ", b"rXYZ"
    icc += bytes(2 << 20)
    icc[:4] = struct.pack(">I", len(icc))
    packed = chunk(b"iCCP", b"swapped\0\0" + zlib.compress(bytes(icc)))
    assert_shows(with_chunks(PNG, packed), PHOTO[..., ::-1], 2)


# Damage that is not shown.

START = PNG.index(b"IDAT") + 4
PIXELS = PNG[START:-16]
HARMLESS = {
    "long text": with_chunks(PNG, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)))),
    "longest text": with_chunks(PNG, chunk(b"tEXt", b"a\0" + b"a" * (66 << 20))),
    "text with a wrong checksum": with_chunks(PNG, chunk(b"tEXt", b"a\0b", False)),
    "gamma with a wrong checksum": with_chunks(PNG, chunk(b"gAMA", b"\0\1\0\0", False)),
    **{
        f"short {kind}": with_chunks(PNG, chunk(kind.encode(), b""))
        for kind in ("gAMA", "cHRM", "sRGB", "iCCP", "pHYs", "tIME", "eXIf", "sBIT", "acTL")
    },
    "no profile": with_chunks(PNG, chunk(b"iCCP", b"x\0\1zzz")),
    "no IEND": PNG[:-12],
    "half an IEND": PNG[:-5],
    "something behind": PNG + b"abc" * 50,
    "pixels with one wrong checksum": PNG[:-16] + b"\0\0\0\0" + PNG[-12:],
    "pixels with the other wrong": PNG[: START - 8]
    + chunk(b"IDAT", PIXELS[:-4] + b"\0\0\0\0")
    + PNG[-12:],
    "WebP longer than it says": WEBP[:4] + struct.pack("<I", len(WEBP) - 30) + WEBP[8:],
    "WebP shorter than it says": WEBP[:4] + struct.pack("<I", len(WEBP) + 30) + WEBP[8:],
    "WebP with half its EXIF": WEBP[:-5],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_damage_beside_the_pixels_is_passed_over(name):
    assert_shows(HARMLESS[name], PHOTO, 0)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("left", [1, 2])
def test_jpeg_without_its_end_marker(progressive, left):
    file = encode(IMAGE, "JPEG", quality=95, progressive=progressive)
    assert_shows(file[:-left], np.asarray(Image.open(io.BytesIO(file))), 0)


def test_pixels_that_are_missing_or_wrong_are_not_passed_over():
    wrong = PIXELS[: len(PIXELS) // 2] + b"\x55" + PIXELS[len(PIXELS) // 2 + 1 :]
    files = {
        "pixels damaged": PNG[:START] + wrong + PNG[-16:],
        "pixels cut short": PNG[:-30],
        "truncated": JPEG[:-20],
    }
    for why, file in files.items():
        with pytest.raises(BadPicture, match=f"decoding failed .*{why}"):
            decode_picture(file, "picture")
    # Each scan of a progressive JPEG refines the whole picture: without the last it is blurred.
    progressive = encode(IMAGE, "JPEG", quality=95, progressive=True)
    at = -1
    for _ in range(progressive.count(b"\xff\xda") - 1):
        at = progressive.index(b"\xff\xda", at + 1)
        with pytest.raises(BadPicture, match="truncated"):
            decode_picture(progressive[: progressive.index(b"\xff\xc4", at)], "blurred.jpg")


@pytest.mark.parametrize("kind", ["GIF", "PPM", "JPEG2000", "AVIF", "MPO"])
def test_more_kinds_of_files(kind):
    image = IMAGE.quantize(64) if kind == "GIF" else IMAGE
    options = {"save_all": True, "append_images": [IMAGE]} if kind == "MPO" else {}
    file = encode(image, kind, **options)
    assert_shows(file, np.asarray(Image.open(io.BytesIO(file)).convert("RGB")), 0)


def test_a_bmp_whose_alpha_byte_is_unused_is_not_transparent():
    def bmp(alpha):
        pixels = np.dstack([PHOTO[..., ::-1], alpha])[::-1].tobytes()
        header = struct.pack("<IiiHHIIiiII", 108, 75, 50, 1, 32, 3, len(pixels), 0, 0, 0, 0)
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
        start = struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122)
        return b"BM" + start + header + masks + pixels

    assert_shows(bmp(np.zeros_like(ALPHA)), PHOTO, 0)
    assert_shows(bmp(ALPHA), PHOTO * (ALPHA / 255) + WHITE, 1)


INTERLACED = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))


def test_interlaced_png_of_12_bits():
    samples = deep(PHOTO, 12)
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in (*INTERLACED, (1, 0, 2, 1))]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts for row in part)
    header = struct.pack(">IIBBBBB", 75, 50, 16, 2, 0, 0, 1)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    assert_shows(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), PHOTO, 0)


def test_deep_samples_of_other_kinds():
    """Portable maps and JPEG 2000, of the whole span and of 12 bits of it."""
    for bits in (16, 12):
        for magic, levels in ((b"P5", GREY), (b"P6", PHOTO)):
            head = magic + b" 75 50 %d\n" % (2**bits - 1)
            assert_shows(head + deep(levels, bits).astype(">u2").tobytes(), levels, 0)
        grey = Image.fromarray(deep(GREY, bits)[..., 0])
        assert_shows(encode(grey, "JPEG2000"), GREY, 0)
