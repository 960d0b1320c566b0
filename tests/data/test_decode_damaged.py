"""Damage is named, pixels are limited before decoding, and decoders stay silent."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from picture_files import encode, encode_tiff
from PIL import Image
from skimage import data

from yoda_jax.data.decode import BadPicture, decode_picture
from yoda_jax.errors import UserError

PHOTO = np.ascontiguousarray(data.coffee()[::4, ::4])  # 100 x 150 x 3
IMAGE = Image.fromarray(PHOTO)

pytestmark = pytest.mark.filterwarnings("ignore:::PIL.*")

PNG = encode(IMAGE, "PNG")
JPEG = encode(IMAGE, "JPEG")
DEEP_TIFF = encode_tiff(PHOTO.astype(np.uint16) * 257, photometric="rgb")
RAMP = np.linspace(0, 1, 600).reshape(20, 30)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "the file is empty"),
        (b"x", "it is no picture"),
        (b"a diary, not a picture\n" * 20, "it is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no picture"),
        (PNG[: len(PNG) // 2], "decoding failed"),
        (PNG[:40], "it is no picture|decoding failed"),
        (JPEG[: len(JPEG) // 2], "decoding failed"),
        (encode(IMAGE, "WEBP")[:900], "it is no picture|decoding failed"),
        (encode(IMAGE, "BMP")[:900], "decoding failed"),
        (encode(IMAGE, "TIFF")[:900], "it is no picture|decoding failed"),
        (DEEP_TIFF[: len(DEEP_TIFF) // 2], "decoding failed"),
        (DEEP_TIFF[:9], "decoding failed"),
        (encode_tiff(RAMP * 255, photometric="minisblack"), r"span 0\.\.255 instead of 0\.\.1"),
        (encode_tiff(RAMP - np.nan, photometric="minisblack"), r"span nan\.\.nan"),
        (encode_tiff((RAMP * 9 - 5).astype(np.int32), photometric="minisblack"), "negative"),
        (encode_tiff(np.zeros((8, 8, 5), "u2"), photometric="rgb"), "neither grey nor RGB"),
    ],
)
def test_bad_pictures_are_named(file, why):
    with pytest.raises(BadPicture, match=why) as raised:
        decode_picture(file, "album/cat.png")
    assert isinstance(raised.value, UserError)
    assert raised.value.name == "album/cat.png"
    message = str(raised.value)
    assert message.startswith("picture album/cat.png cannot be used because ")
    assert "\n" not in message


def test_missing_file_is_a_bad_picture(tmp_path):
    with pytest.raises(BadPicture, match="gone.png .*No such file"):
        decode_picture(tmp_path / "gone.png", "gone.png")


def test_size_is_checked_before_decoding():
    huge = bytearray(PNG)
    for side in (20_000, 17_000):  # above and below twice Pillow's own limit
        huge[16:24] = side.to_bytes(4, "big") + (15_000).to_bytes(4, "big")
        huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
        with pytest.raises(BadPicture, match="limit of 250000000 pixels; raise"):
            decode_picture(bytes(huge), "huge.png")


def test_the_limit_is_the_callers():
    for file in (PNG, JPEG, DEEP_TIFF):
        with pytest.raises(BadPicture, match="150 x 100 exceeds the limit of 14999 pixels"):
            decode_picture(file, "picture", 14_999)
        assert decode_picture(file, "picture", 15_000).shape == PHOTO.shape


def test_the_photographs_of_telephones_are_decoded():
    """108 megapixels, in one bit to be quick: above the limit that Pillow keeps for a process."""
    file = encode(Image.new("1", (12_000, 16_000), 1), "PNG")
    assert decode_picture(file, "phone.png").shape == (16_000, 12_000, 3)


def test_decoders_stay_silent(tmp_path):
    """Odd metadata and damage leave nothing on stderr, even where warnings are errors."""
    palette = encode(IMAGE.quantize(64), "PNG", transparency=bytes(range(0, 256, 4)))
    exif = encode(IMAGE, "TIFF", tiffinfo={270: "photo"})
    files = [palette, JPEG[:2000], DEEP_TIFF[:2000], DEEP_TIFF[:20000], exif[:200], exif]
    for index, file in enumerate(files):
        (tmp_path / str(index)).write_bytes(file)
    program = (
        "import sys\n"
        "from yoda_jax.data.decode import BadPicture, decode_picture, silent_decoders\n"
        "with silent_decoders():\n"
        "    for path in sys.argv[1:]:\n"
        "        try: decode_picture(path, path)\n"
        "        except BadPicture as bad: print(bad)\n"
    )
    paths = [str(tmp_path / str(index)) for index in range(len(files))]
    for flags in ([], ["-W", "error:::PIL"]):
        done = subprocess.run(
            [sys.executable, *flags, "-c", program, *paths], capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr == ""
        assert len(done.stdout.splitlines()) == 4


def test_nothing_of_the_process_changes():
    """Neither on import nor by decoding, nor after decoders were silent for a while."""
    program = (
        "import logging, warnings, PIL.Image, PIL.PngImagePlugin, tifffile\n"
        "def state():\n"
        "    return [list(warnings.filters), logging.getLogger('tifffile').level,\n"
        "        PIL.Image.MAX_IMAGE_PIXELS, PIL.PngImagePlugin.MAX_TEXT_CHUNK]\n"
        "before = state()\n"
        "from yoda_jax.data.decode import decode_picture, silent_decoders\n"
        "import sys\n"
        "decode_picture(sys.stdin.buffer.read(), 'picture')\n"
        "assert state() == before, state()\n"
        "with silent_decoders(): assert state() != before\n"
        "assert state() == before, state()\n"
    )
    subprocess.run([sys.executable, "-c", program], input=PNG, check=True)
