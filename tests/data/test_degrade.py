"""Bicubic resizing against Pillow, the SRDiff reference and the properties of interpolation."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import assert_near
from skimage import data

from yoda_jax.data.degrade import downsample, fit, resize_photo
from yoda_jax.errors import UserError
from yoda_jax.pictures import resize_matrix, upsample

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "srdiff_degrade.npz")
BORDERS = st.sampled_from(["pil", "matlab", "srdiff"])
SIZES = st.integers(1, 40)

jit_upsample = jax.jit(upsample, static_argnums=(1, 2))


def to_levels(x):
    return (np.asarray(x, np.float64) + 1) * 127.5


def photograph(name, scale):
    """A real photograph with border pixels of all four sides, divisible by the scale."""
    image = getattr(data, name)()[::2, ::2]
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_pil_rule_is_pillow(name, scale):
    hr = photograph(name, scale)
    height, width = hr.shape[:2]
    picture = Image.fromarray(hr).resize((width // scale, height // scale), Image.BICUBIC)
    lr = downsample(hr, scale, "pil")
    np.testing.assert_array_equal(lr, np.asarray(picture))

    # Our matrices are Pillow's: the same two passes in float64 differ at rounding ties only.
    columns, rows = (resize_matrix(n, n // scale, "pil") for n in (width, height))
    across = np.clip(np.floor(np.einsum("qw,hwc->hqc", columns, hr) + 0.5), 0, 255)
    ours = np.clip(np.floor(np.einsum("ph,hwc->pwc", rows, across) + 0.5), 0, 255)
    assert np.abs(ours - lr).max() <= 1
    assert (ours != lr).mean() < 1e-3

    ours = to_levels(jit_upsample(lr[None], scale, "pil")[0])
    pillows = np.asarray(Image.fromarray(lr).resize((width, height), Image.BICUBIC))
    np.testing.assert_allclose(ours, np.rint(ours), atol=5e-5)
    assert np.abs(np.rint(ours) - pillows).max() <= 1
    assert (np.rint(ours) != pillows).mean() < 5e-4


def test_matlab_rule_is_the_srdiff_reference():
    np.testing.assert_array_equal(downsample(GOLDEN["hr_u8_HWC"], 4, "matlab"), GOLDEN["lr_u8_HWC"])
    # The reference resizes lr / 256 and stays in [0, 1].
    lr_up = to_levels(jit_upsample(GOLDEN["lr_u8_HWC"][None], 4, "matlab")[0]) / 256
    assert_near(lr_up, GOLDEN["lr_up01_HWC_f64"], 1e-6)


def test_srdiff_rule_is_the_reference_with_its_division_by_256():
    lr = GOLDEN["lr_u8_HWC"]
    np.testing.assert_array_equal(downsample(GOLDEN["hr_u8_HWC"], 4, "srdiff"), lr)
    # The reference shows its network 2 x - 1 of what it has resized in [0, 1].
    lr_up = jit_upsample(lr[None], 4, "srdiff")[0]
    assert_near(lr_up, 2 * GOLDEN["lr_up01_HWC_f64"] - 1, 1e-6)
    matlab = to_levels(jit_upsample(lr[None], 4, "matlab")[0])
    np.testing.assert_allclose(lr_up, matlab / 128 - 1, atol=1e-6)


@pytest.mark.parametrize("scale", [4, 8])
def test_srdiff_rule_shrinks_as_matlab(scale):
    hr = photograph("astronaut", scale)
    np.testing.assert_array_equal(downsample(hr, scale, "srdiff"), downsample(hr, scale, "matlab"))


def test_rules_differ_at_the_border_alone():
    lr = photograph("coffee", 4)[:40, :48].astype(np.float32)[None]
    rows = [resize_matrix(40, 160, resampling) for resampling in ("pil", "matlab")]
    inside = slice(8, -8)
    np.testing.assert_allclose(rows[0][inside], rows[1][inside], atol=1e-12)
    assert np.abs(rows[0] - rows[1])[:8].max() > 0.01
    pil, matlab = (to_levels(upsample(lr, 4, resampling))[0] for resampling in ("pil", "matlab"))
    # Two roundings to 8 bits and one clipping set the rules apart inside.
    difference = np.abs(pil - np.clip(matlab, 0, 255))[inside, inside]
    assert difference.max() < 2


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, BORDERS)
def test_matrix_interpolates(size_in, size_out, resampling):
    matrix = resize_matrix(size_in, size_out, resampling)
    assert matrix.shape == (size_out, size_in) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    # Turning the signal round turns the result round.
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-9)
    if size_in == size_out:
        np.testing.assert_allclose(matrix, np.eye(size_in), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 20), st.integers(2, 4), BORDERS)
def test_a_ramp_stays_a_ramp(size, scale, resampling):
    """Keys' kernel reproduces straight lines when enlarging, away from the border."""
    ramp = np.arange(size) + 0.5
    enlarged = resize_matrix(size, size * scale, resampling) @ ramp
    inside = slice(2 * scale, -2 * scale)
    expected = (np.arange(size * scale) + 0.5) / scale
    np.testing.assert_allclose(enlarged[inside], expected[inside], atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([2, 3, 4]), st.integers(0, 255), BORDERS
)
def test_constant_pictures_stay_constant(height, width, scale, level, resampling):
    hr = np.full((height * scale, width * scale, 3), level, np.uint8)
    lr = downsample(hr, scale, resampling)
    np.testing.assert_array_equal(lr, np.full((height, width, 3), level))
    shown = level * 127.5 / 128 if resampling == "srdiff" else level
    np.testing.assert_allclose(to_levels(upsample(lr[None], scale, resampling)), shown, atol=1e-3)


def test_upsample_takes_levels_of_either_type_and_batches():
    lr = np.stack([photograph(name, 4)[:12, :10] for name in ("astronaut", "coffee")])
    both = jit_upsample(lr, 2, "pil")
    assert both.shape == (2, 24, 20, 3) and both.dtype == np.float32
    np.testing.assert_array_equal(both, jit_upsample(lr.astype(np.float32), 2, "pil"))
    # A batch of another size is summed in another order: the last bit may differ.
    alone = jit_upsample(lr[1:], 2, "pil")[0]
    np.testing.assert_allclose(both[1], alone, atol=1e-6)


def test_matlab_rule_overshoots_and_pil_clips():
    step = np.zeros((1, 8, 8, 3), np.uint8)
    step[:, :, 4:] = 255
    assert np.max(upsample(step, 4, "matlab")) > 1.02
    pil = upsample(step, 4, "pil")
    assert np.max(pil) == 1 and np.min(pil) == -1


def test_fit_is_the_centre_of_the_shorter_side_resized():
    image = data.coffee()  # 400 x 600
    square = fit(image, 64)
    # torchvision: the longer side is int(64 * 600 / 400) = 96, the crop starts at 16.
    resized = Image.fromarray(image).resize((96, 64), Image.BICUBIC)
    np.testing.assert_array_equal(square, np.asarray(resized)[:, 16:80])
    tall = Image.fromarray(image).transpose(Image.Transpose.TRANSPOSE)
    resized = tall.resize((64, 96), Image.BICUBIC)
    np.testing.assert_array_equal(fit(np.asarray(tall), 64), np.asarray(resized)[16:80])
    np.testing.assert_array_equal(fit(image[:64, :64], 64), image[:64, :64])
    assert resize_photo(image, (10, 20)).shape == (10, 20, 3)


def test_mistakes_are_named():
    hr = np.zeros((10, 12, 3), np.uint8)
    with pytest.raises(UserError, match="10 x 12 .* scale 4"):
        downsample(hr, 4, "pil")
