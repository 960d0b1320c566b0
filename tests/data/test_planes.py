import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from yoda_jax.data.decode import BadPicture
from yoda_jax.data.planes import WRITTEN, Planes, check_size, write_picture
from yoda_jax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def enlarged(planes):
    """Every pixel twice along both axes, as a network of scale 2 could make it."""
    return planes.enlarged(planes.colours.repeat(2, 0).repeat(2, 1))


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_colours_alone_pass_through(tmp_path):
    planes = Planes.of_file(saved(tmp_path / "a.png", Image.fromarray(RGB)))
    np.testing.assert_array_equal(planes.colours, RGB)
    assert enlarged(planes).mode == "RGB" and enlarged(planes).size == (18, 12)
    assert (planes.alpha, planes.grey, planes.icc) == (None, False, None)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_stays_grey(mode, tmp_path):
    image = Image.fromarray(RGB).convert(mode)
    made = enlarged(Planes.of_file(saved(tmp_path / "a.png", image)))
    assert made.mode == ("LA" if mode == "LA" else "L")
    grey = np.array(image.convert("L")).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.array(made.convert("L")), grey)


def test_opacity_is_enlarged_alongside(tmp_path):
    alpha = np.zeros((6, 9), np.uint8)
    alpha[:, 5:] = 200
    image = Image.fromarray(np.dstack([RGB, alpha]))
    made = enlarged(Planes.of_file(saved(tmp_path / "a.png", image)))
    assert made.mode == "RGBA"
    found = np.array(made)[..., 3]
    assert (found[:, :7] == 0).all() and (found[:, -5:] == 200).all()
    np.testing.assert_array_equal(np.array(made)[..., :3], RGB.repeat(2, 0).repeat(2, 1))


def test_a_transparent_palette_keeps_its_opacity(tmp_path):
    image = Image.fromarray(RGB).convert("P")
    path = saved(tmp_path / "a.png", image, transparency=image.getpixel((0, 0)))
    made = enlarged(Planes.of_file(path))
    assert made.mode == "RGBA" and made.getpixel((0, 0))[3] == 0


def test_it_is_turned_upright_with_its_opacity(tmp_path):
    alpha = np.arange(54, dtype=np.uint8).reshape(6, 9)
    exif = Image.Exif()
    exif[0x112] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(np.dstack([RGB, alpha])), exif=exif)
    planes = Planes.of_file(path)
    np.testing.assert_array_equal(planes.colours, np.rot90(RGB, -1))
    np.testing.assert_array_equal(np.array(planes.alpha), np.rot90(alpha, -1))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_the_profile_of_the_colours_is_kept(ending, tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), icc_profile=PROFILE)
    planes = Planes.of_file(path)
    np.testing.assert_array_equal(planes.colours, RGB)  # in their own space
    write_picture(enlarged(planes), tmp_path / f"b{ending}", 90)
    assert Image.open(tmp_path / f"b{ending}").info["icc_profile"] == PROFILE


def test_cmyk_becomes_srgb(tmp_path):
    path = saved(tmp_path / "a.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    planes = Planes.of_file(path)
    assert planes.colours[0, 0, 0] > 150 > planes.colours[0, 0, 1] and planes.icc is None


def test_a_picture_in_memory_lies_as_it_is():
    planes = Planes.of_image(Image.fromarray(RGB))
    np.testing.assert_array_equal(planes.colours, RGB)


@pytest.mark.parametrize("ending", WRITTEN)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_every_format_takes_every_kind(ending, mode, tmp_path):
    image = Image.new(mode, (16, 16), {"RGB": (9, 200, 30), "RGBA": (9, 200, 30, 0)}.get(mode, 90))
    write_picture(image, tmp_path / f"a{ending.upper()}", 95)
    found = Image.open(tmp_path / f"a{ending.upper()}")
    assert found.size == (16, 16)
    if mode == "RGBA" and ending in (".jpg", ".bmp"):  # what was transparent is white
        assert min(found.convert("RGB").getpixel((8, 8))) > 250


def test_quality_is_the_files(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    sizes = []
    for quality in (30, 95):
        write_picture(image, tmp_path / "a.jpg", quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[0] < 0.7 * sizes[1] and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(io.BytesIO(b"nothing").getvalue())
    with pytest.raises(BadPicture, match="a.png cannot be used because"):
        Planes.of_file(tmp_path / "a.png")


def test_a_picture_too_large_for_its_format_is_refused_before_it_is_made():
    for size in ((16_384, 8), (8, 16_384)):
        with pytest.raises(UserError, match="at most 16383 pixels a side, as WEBP is"):
            check_size(size, "a.webp")
        for ending in (".jpg", ".png", ".tif"):
            check_size(size, f"a{ending}")
