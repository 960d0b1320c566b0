"""Metrics against scikit-image and against their formulas, on degraded real photographs."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from yoda_jax.data.degrade import downsample
from yoda_jax.errors import UserError
from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.measure import TILE_RIM

MATLAB_Y = np.array([65.481, 128.553, 24.966]) / 255
PICTURES = hnp.arrays(np.uint8, (12, 13, 3))
quick = settings(max_examples=40, deadline=None)


def jpeg(hr):
    file = io.BytesIO()
    Image.fromarray(hr).save(file, "JPEG", quality=20)
    return np.asarray(Image.open(file))


def noisy(hr):
    noise = np.random.default_rng(7).normal(0, 12, hr.shape)
    return (hr + noise).round().clip(0, 255).astype(np.uint8)


def blurred(hr):
    return np.stack([ndimage.gaussian_filter(hr[..., c], 1.5) for c in range(3)], -1)


def bicubic(hr):
    small = Image.fromarray(hr).resize((hr.shape[1] // 4, hr.shape[0] // 4), 3)
    return np.asarray(small.resize((hr.shape[1], hr.shape[0]), 3))


@pytest.fixture(scope="module", params=["astronaut", "coffee", "chelsea"])
def hr(request):
    return np.ascontiguousarray(getattr(data, request.param)()[100:196, 160:288])


@pytest.fixture(scope="module", params=[jpeg, noisy, blurred, bicubic], ids=lambda f: f.__name__)
def pair(request, hr):
    return request.param(hr), hr


def ssim_by_hand(a, b):
    """Wang et al.'s formula on one channel: an 11 x 11 window, the valid region alone."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def local(x):
        patches = np.lib.stride_tricks.sliding_window_view(x, (11, 11))
        return np.einsum("hwij,ij->hw", patches, window)

    mu_a, mu_b = local(a), local(b)
    var_a, var_b = local(a * a) - mu_a**2, local(b * b) - mu_b**2
    covariance = local(a * b) - mu_a * mu_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean()


def test_luma_is_bt601_in_studio_range(hr):
    np.testing.assert_allclose(fidelity.luminance(hr), rgb2ycbcr(hr)[..., 0], atol=1e-9)
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(fidelity.luminance(ends), [[16, 235]])


@pytest.mark.parametrize("border", [0, 4])
def test_psnr_in_rgb_and_luma(pair, border):
    sr, hr = pair
    inside = np.s_[border : 96 - border, border : 128 - border]
    rgb = [x[inside].astype(float) for x in pair]
    luma = [16 + x @ MATLAB_Y for x in rgb]
    for (a, b), y in [(rgb, False), (luma, True)]:
        value = fidelity.psnr(sr, hr, border, y)
        by_hand = 20 * math.log10(255) - 10 * math.log10(np.mean((a - b) ** 2))
        assert value == pytest.approx(by_hand, abs=1e-9)
        assert value == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)
    assert 15 < value < 45


@pytest.mark.parametrize("border", [0, 4])
def test_ssim_in_rgb_and_luma(pair, border):
    sr, hr = pair
    inside = np.s_[border : 96 - border, border : 128 - border]
    a, b = (x[inside].astype(float) for x in pair)
    by_hand = np.mean([ssim_by_hand(a[..., c], b[..., c]) for c in range(3)])
    assert fidelity.ssim(sr, hr, border) == pytest.approx(by_hand, abs=1e-9)
    library = structural_similarity(
        sr[inside],
        hr[inside],
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert fidelity.ssim(sr, hr, border) == pytest.approx(library, abs=1e-9)
    by_hand = ssim_by_hand(16 + a @ MATLAB_Y, 16 + b @ MATLAB_Y)
    assert fidelity.ssim(sr, hr, border, luma=True) == pytest.approx(by_hand, abs=1e-9)


def test_more_noise_is_less_fidelity(hr):
    noise = np.random.default_rng(3).normal(0, 1, hr.shape)
    levels = [(hr + s * noise).round().clip(0, 255).astype(np.uint8) for s in (2, 8, 32)]
    for metric in (fidelity.psnr, fidelity.ssim):
        values = [metric(sr, hr) for sr in levels]
        assert values == sorted(values, reverse=True)


def test_an_identical_picture_is_perfect(hr):
    with np.errstate(all="raise"):
        assert fidelity.psnr(hr, hr) == math.inf
        assert fidelity.psnr(hr, hr, 4, luma=True) == math.inf
    assert fidelity.ssim(hr, hr) == pytest.approx(1)


@given(PICTURES, PICTURES, st.booleans())
@quick
def test_metrics_are_symmetric_and_bounded(a, b, luma):
    assert fidelity.psnr(a, b, luma=luma) == fidelity.psnr(b, a, luma=luma) >= 0
    value = fidelity.ssim(a, b, luma=luma)
    assert value == pytest.approx(fidelity.ssim(b, a, luma=luma), abs=1e-9)
    assert -1 <= value <= 1 + 1e-9
    shift = fidelity.colour_shift(a, b)
    np.testing.assert_allclose(fidelity.colour_shift(b, a), -shift)
    assert np.abs(shift).max() <= 2


@pytest.mark.parametrize("rule", ["pil", "matlab"])
def test_lr_psnr_compares_what_degradation_makes(hr, rule):
    lr = downsample(hr, 4, rule)
    assert fidelity.lr_psnr(hr, lr, rule) == math.inf
    sr = bicubic(hr)
    expected = peak_signal_noise_ratio(lr, downsample(sr, 4, rule), data_range=255)
    assert fidelity.lr_psnr(sr, lr, rule) == pytest.approx(expected, abs=1e-9)
    # Consistency says nothing about detail: a smooth picture keeps its low frequencies.
    assert fidelity.lr_psnr(sr, lr, rule) > fidelity.psnr(sr, hr) + 3


@pytest.mark.parametrize("rule", ["pil", "matlab"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_lr_psnr_of_the_true_tile_is_infinite_without_its_rim(hr, rule, scale):
    """LR of a tile is cut from the whole reduced picture, which saw pixels beyond the tile."""
    lr = downsample(hr, scale, rule)
    top, left, size = 2 * scale, 3 * scale, 64
    tile = hr[top : top + size, left : left + size]
    lr_tile = lr[2 : 2 + size // scale, 3 : 3 + size // scale]
    assert fidelity.lr_psnr(tile, lr_tile, rule) < 70
    assert fidelity.lr_psnr(tile, lr_tile, rule, border=TILE_RIM) == math.inf


@pytest.mark.parametrize("shape", [(23, 32), (24, 40), (5, 8)])
def test_lr_psnr_refuses_a_picture_of_another_pair(shape):
    sr, lr = np.zeros((96, 128, 3), np.uint8), np.zeros((*shape, 3), np.uint8)
    with pytest.raises(UserError, match=f"found 96 x 128 and {shape[0]} x {shape[1]}"):
        fidelity.lr_psnr(sr, lr, "pil")


def test_colour_shift_is_the_mean_offset_on_the_unit_range(hr):
    dark = hr // 2 + 40  # room for an offset without clipping
    sr = (dark + np.array([10, -5, 0])).astype(np.uint8)
    np.testing.assert_allclose(fidelity.colour_shift(sr, dark), np.array([10, -5, 0]) / 127.5)
    a, b = sr / 127.5 - 1, dark / 127.5 - 1
    np.testing.assert_allclose(fidelity.colour_shift(sr, dark), (a - b).mean((0, 1)), atol=1e-12)


def test_colour_shift_ignores_noise_without_a_mean(hr):
    noise = np.random.default_rng(1).integers(-9, 10, hr.shape)
    noise[1::2] = -noise[::2]
    dark = hr // 2 + 40
    sr = (dark + noise).astype(np.uint8)
    assert fidelity.psnr(sr, dark) < 35
    np.testing.assert_allclose(fidelity.colour_shift(sr, dark), 0, atol=1e-12)


@pytest.mark.parametrize("metric", [fidelity.psnr, fidelity.ssim, fidelity.colour_shift])
def test_pictures_of_two_sizes_or_types_are_refused(metric):
    a, b = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 16, 3), np.uint8)
    with pytest.raises(UserError, match=r"\(32, 32, 3\) and uint8 \(32, 16, 3\)"):
        metric(a, b)
    with pytest.raises(UserError, match="found float32"):
        metric(a.astype(np.float32), a)
    with pytest.raises(UserError, match=r"RGB.*\(32, 32\)"):
        metric(a[..., 0], a[..., 0])


@pytest.mark.parametrize("luma", [False, True])
def test_pictures_smaller_than_the_window_are_refused(luma):
    small = np.zeros((18, 40, 3), np.uint8)
    assert fidelity.ssim(small, small, 3, luma) == pytest.approx(1)
    with pytest.raises(UserError, match="border of 4 expects.* at least 19 pixels.*18 x 40"):
        fidelity.ssim(small, small, 4, luma)
    with pytest.raises(UserError, match="border of 9 expects.* at least 19 pixels"):
        fidelity.psnr(small, small, 9, luma)
    with pytest.raises(UserError, match="border of -1"):
        fidelity.psnr(small, small, -1, luma)
