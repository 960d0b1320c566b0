"""Classical maps against their definitions written out, on real photographs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.color import rgb2gray
from skimage.feature import SIFT

from yoda_jax.attention.classical import BANDWIDTH, CLASSICAL, ClassicalAttention, edges, entropy
from yoda_jax.attention.maps import Reading, attention_map, quantise

SIDE = 96
MAPS = sorted(CLASSICAL.keys() - {"constant"})  # which look at the picture, or say "everywhere"


def up_sampled(photo: np.ndarray, low: int = 32, side: int = SIDE) -> np.ndarray:
    image = Image.fromarray(photo).resize((low, low), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module", params=["astronaut", "coffee", "chelsea"])
def photo(request):
    return up_sampled(getattr(data, request.param)())


def block_mean(dense, grid):
    h, w = grid
    return dense.reshape(h, dense.shape[0] // h, w, -1).mean((1, 3))


def gradient(photo):
    """Sobel by hand: (1,2,1)/4 across, (1,0,-1) along, the root mean square of both axes."""
    luma = rgb2gray(photo)
    smooth, step = np.array([1, 2, 1]) / 4, np.array([1, 0, -1])
    dy = ndimage.convolve(luma, np.outer(step, smooth))
    dx = ndimage.convolve(luma, np.outer(smooth, step))
    return np.sqrt((dy**2 + dx**2) / 2)


def test_edges_are_the_smoothed_sobel_magnitude(photo):
    sigma = BANDWIDTH * SIDE
    expected = ndimage.gaussian_filter(gradient(photo), sigma)
    np.testing.assert_allclose(edges(photo, (SIDE, SIDE)), expected, atol=1e-7)
    np.testing.assert_allclose(edges(photo, (12, 12)), block_mean(expected, (12, 12)), atol=1e-7)


def test_sift_density_is_a_kernel_sum_over_keypoints(photo):
    detector = SIFT()
    detector.detect(rgb2gray(photo))
    sigma, grid = BANDWIDTH * SIDE, (12, 12)
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.zeros((SIDE + 2 * reach, SIDE + 2 * reach))
    for row, column in detector.keypoints:
        padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1] += kernel
    inside = padded[reach:-reach, reach:-reach]
    density = CLASSICAL["sift"](photo, (SIDE, SIDE))[None][0]
    core = np.s_[reach:-reach, reach:-reach]  # beyond it the border mirrors
    np.testing.assert_allclose(density[core], inside[core], atol=1e-7)
    # A keypoint's whole kernel stays inside the picture: the density sums to the count.
    coarse = CLASSICAL["sift"](photo, grid)[None]
    assert coarse.sum() * (SIDE / 12) ** 2 == pytest.approx(len(detector.keypoints), rel=1e-5)


def test_entropy_is_the_histogram_entropy_of_a_disk(photo):
    magnitude = gradient(photo)
    levels = np.rint(magnitude / magnitude.max() * 255).astype(int)
    radius = round(BANDWIDTH * SIDE)
    dense = entropy(photo, (SIDE, SIDE))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for row, column in [(0, 0), (5, 90), (48, 48), (70, 20), (95, 95)]:
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        share = np.bincount(levels[inside]) / inside.sum()
        expected = -sum(p * np.log2(p) for p in share if p > 0)
        assert dense[row, column] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(entropy(photo, (12, 12)), block_mean(dense, (12, 12)), atol=1e-5)


@pytest.mark.parametrize("name", ["edges", "sift", "entropy"])
def test_detail_ranks_above_a_flat_ground(name):
    photo = np.full((SIDE, SIDE, 3), 128, np.uint8)
    photo[32:64, 32:64] = up_sampled(data.astronaut(), low=64)[32:64, 32:64]
    heads = CLASSICAL[name](photo, (6, 6))[None][0]
    assert heads[2:4, 2:4].min() > heads[[0, 0, 5, 5], [0, 5, 0, 5]].max()


@pytest.mark.parametrize("name", ["edges", "entropy"])
def test_maps_flip_with_the_picture(name, photo):
    heads = CLASSICAL[name](photo, (12, 8))[None]
    flipped = CLASSICAL[name](np.ascontiguousarray(photo[:, ::-1]), (12, 8))[None]
    np.testing.assert_allclose(flipped, heads[:, :, ::-1], atol=1e-5)


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), name=st.sampled_from(MAPS))
@settings(max_examples=30, deadline=None)
def test_a_picture_of_one_colour_is_diffused_everywhere(colour, name):
    photo = np.broadcast_to(np.array(colour, np.uint8), (40, 56, 3))
    stored = quantise(CLASSICAL[name](photo, (5, 7))[None])
    assert name == "random" or np.ptp(stored[0]) == 0
    everywhere = (attention_map(*stored, (20, 28), Reading()) == 255).all()
    assert everywhere == (name != "random")


def test_random_is_a_function_of_the_picture_and_uniform_on_the_grid(photo):
    heads = CLASSICAL["random"](photo, (40, 30))[None]
    np.testing.assert_array_equal(CLASSICAL["random"](photo.copy(), (40, 30))[None], heads)
    np.testing.assert_allclose(np.quantile(heads, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05)
    changed = photo.copy()
    changed[0, 0, 0] ^= 1
    other = CLASSICAL["random"](changed, (40, 30))[None]
    assert abs(np.corrcoef(heads.ravel(), other.ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("name", sorted(CLASSICAL))
@pytest.mark.parametrize("grid", [(7, 7), (12, 8), (5, 11)])
def test_heads_have_the_grid_they_are_asked_for(name, grid, photo):
    heads = CLASSICAL[name](photo, grid)[None]
    assert heads.shape == (1, *grid) and heads.dtype == np.float32
    assert np.isfinite(heads).all() and heads.min() >= 0


@pytest.mark.parametrize("cell", [4, 7])
def test_many_pictures_come_in_order_with_a_cell_for_every_few_pixels(photo, cell):
    pictures = [photo[: 40 + 8 * i, :64] for i in range(5)]
    attention = ClassicalAttention("edges", cell, threads=3)
    for picture, heads in zip(pictures, attention(iter(pictures)), strict=True):
        expected = edges(picture, (picture.shape[0] // cell, 64 // cell))
        np.testing.assert_array_equal(heads, expected[None])


def test_constant_attends_nowhere_and_uniform_everywhere(photo):
    for source, level in (("constant", 0), ("uniform", 255)):
        (heads,) = ClassicalAttention(source, 8, threads=1)([photo[:40, :56]])
        assert (attention_map(*quantise(heads), (20, 28), Reading()) == level).all()


def test_a_picture_smaller_than_a_cell_has_one(photo):
    (heads,) = ClassicalAttention("edges", 50, threads=1)([photo[:20, :30]])
    assert heads.shape == (1, 1, 1)
