"""Examples of a picture: tiles and squares cut from one degraded whole, with its attention."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from yoda_jax.attention.classical import edges
from yoda_jax.attention.maps import Reading, attention_map, dequantise
from yoda_jax.data.batches import cut
from yoda_jax.data.degrade import downsample, fit
from yoda_jax.data.examples import Preparation, attention_input, examples, prepare
from yoda_jax.data.photos import BadPicture

PHOTO = np.ascontiguousarray(data.coffee()[90:193, 150:300])  # 103 x 150 x 3
TILES = Preparation(
    "tiles",
    hr_size=32,
    stride=16,
    scale=4,
    resampling="pil",
    attention_input=60,
    attention_stride=1,
)


def edge_heads(picture):
    """The edges of a picture and of its mirror image: two heads of different scales."""
    grid = (picture.shape[0] // 4, picture.shape[1] // 4)
    heads = [edges(p, grid)[None] for p in (picture, picture[:, ::-1])]
    return np.concatenate([heads[0], 3 * heads[1]])


def changed(**fields):
    return Preparation(**{**vars(TILES), **fields})


def cut_up(name, picture, preparation, heads=edge_heads):
    """All examples of a picture."""
    prepared = prepare(name, picture, preparation)
    return list(examples(prepared, heads(prepared.input), preparation))


@pytest.mark.parametrize("resampling", ["pil", "matlab"])
def test_tiles_are_cut_from_the_degraded_whole(resampling):
    """Degrading each tile by itself would put border artefacts inside the picture."""
    hr = PHOTO[:100, :148]  # what the scale divides
    lr = downsample(hr, 4, resampling)
    tiles = cut_up("coffee", PHOTO, changed(resampling=resampling))
    places = [tuple(tile["place"]) for tile in tiles]
    assert places == [(y, x, 100, 148) for y in range(0, 69, 16) for x in range(0, 117, 16)]
    for tile in tiles:
        y, x = tile["place"][:2]
        assert tile["name"] == "coffee"
        np.testing.assert_array_equal(tile["hr"], hr[y : y + 32, x : x + 32])
        np.testing.assert_array_equal(
            tile["lr"], lr[y // 4 : (y + 32) // 4, x // 4 : (x + 32) // 4]
        )
    inner = next(tile for tile in tiles if tuple(tile["place"][:2]) == (32, 32))
    assert np.any(inner["lr"] != downsample(inner["hr"], 4, resampling))


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from([8, 16, 24]), st.data())
def test_tiles_cover_all_but_a_rim_narrower_than_the_stride(height, width, size, draw):
    scale = draw.draw(st.sampled_from([2, 4, 8]))
    stride = scale * draw.draw(st.integers(1, size // scale))
    picture = np.zeros((height, width, 3), np.uint8)
    preparation = changed(hr_size=size, stride=stride, scale=scale, attention_input=8)
    if min(height, width) < size:
        with pytest.raises(BadPicture):
            cut_up("p", picture, preparation)
        return
    covered = np.zeros((height, width), bool)
    seen = set()
    for tile in cut_up("p", picture, preparation):
        top, left, whole_height, whole_width = (int(v) for v in tile["place"])
        assert tile["hr"].shape == (size, size, 3)
        assert tile["lr"].shape == (size // scale, size // scale, 3)
        assert (whole_height, whole_width) == (height - height % scale, width - width % scale)
        assert top + size <= whole_height and left + size <= whole_width
        covered[top : top + size, left : left + size] = True
        seen.add((top, left))
    assert len(seen) == (((whole_height - size) // stride) + 1) * (
        ((whole_width - size) // stride) + 1
    )
    rows, columns = covered.any(1).sum(), covered.any(0).sum()
    assert covered[:rows, :columns].all()
    assert whole_height - rows < stride and whole_width - columns < stride


def test_fit_gives_one_square_of_the_scaled_picture():
    (square,) = cut_up("coffee", PHOTO, changed(crop="fit", hr_size=64, stride=8))
    np.testing.assert_array_equal(square["hr"], fit(PHOTO, 64))
    np.testing.assert_array_equal(square["lr"], downsample(fit(PHOTO, 64), 4, "pil"))
    assert square["place"].tolist() == [0, 0, 64, 64]


@pytest.mark.parametrize("crop", ["fit", "tiles"])
@pytest.mark.parametrize("shape", [(31, 200), (200, 31)])
def test_too_small_picture_names_file_and_field(crop, shape):
    picture = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(BadPicture) as caught:
        prepare("album/thumb.png", picture, changed(crop=crop))
    for part in ("album/thumb.png", f"{shape[1]}x{shape[0]}", "data.hr_size=32"):
        assert part in str(caught.value)
    assert cut_up("p", np.zeros((32, 32, 3), np.uint8), changed(crop=crop))


def test_attention_looks_once_at_the_whole_lr_picture():
    """The method sees no HR picture: heads are computed from the up-sampled LR one."""
    seen = []

    def heads(picture):
        seen.append(picture)
        return edge_heads(picture)

    tiles = cut_up("coffee", PHOTO, TILES, heads)
    lr = downsample(PHOTO[:100, :148], 4, "pil")
    assert len(seen) == 1
    expected = Image.fromarray(lr).resize((round(37 * 60 / 25), 60), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(seen[0], np.array(expected))
    exact = edge_heads(seen[0])
    for tile in tiles:
        stored = dequantise(tile["attention"], tile["attention_scale"])
        assert np.abs(stored - exact).max() <= exact.max() / 510 * 1.001


@pytest.mark.parametrize(
    "reading", [Reading(), Reading("mean", True), Reading(1), Reading(power=1.5)]
)
def test_attention_of_a_tile_is_its_part_of_the_whole_map(reading):
    """A quiet tile stays quiet: it is not normalised by its own maximum."""
    tiles = cut_up("coffee", PHOTO, TILES)
    whole = attention_map(tiles[0]["attention"], tiles[0]["attention_scale"], (100, 148), reading)
    maxima = []
    for tile in tiles:
        y, x = tile["place"][:2]
        attention = cut(tile, reading)["attention"]
        np.testing.assert_allclose(
            attention.astype(int), whole[y : y + 32, x : x + 32].astype(int), atol=1
        )
        maxima.append(attention.max())
    assert max(maxima) > 240 and min(maxima) < 200


def test_attention_input_keeps_the_shape_of_the_picture():
    lr = np.ascontiguousarray(data.coffee()[::16, ::16])  # 25 x 38
    turned = np.ascontiguousarray(lr.transpose(1, 0, 2))
    assert attention_input(lr, 100, 1).shape == (100, 152, 3)
    assert attention_input(turned, 100, 1).shape == (152, 100, 3)


@given(st.integers(5, 60), st.integers(5, 60), st.sampled_from([8, 14, 16, 32]))
def test_attention_input_is_a_multiple_of_the_stride(height, width, stride):
    shape = attention_input(np.zeros((height, width, 3), np.uint8), 2 * stride, stride).shape
    assert min(shape[:2]) == 2 * stride and max(shape[:2]) % stride == 0
    longer = 2 * stride * min(max(height, width) / min(height, width), 4)
    assert abs(max(shape[:2]) - longer) <= stride / 2


@given(st.integers(30, 60), st.integers(30, 60))
def test_pictures_of_many_shapes_make_inputs_of_few(height, width):
    shape = attention_input(np.zeros((height, width, 3), np.uint8), 19 * 14, 14).shape
    assert min(shape[:2]) == 19 * 14
    assert (max(shape[:2]) - 19 * 14) % 28 == 0  # an eighth of 19 cells, in whole cells
    longer = 19 * 14 * max(height, width) / min(height, width)
    assert abs(max(shape[:2]) - longer) <= 14


@pytest.mark.parametrize("shape", [(1, 2000), (500, 3), (40, 161)])
def test_thin_pictures_are_looked_at_without_growing_out_of_bounds(shape):
    seen = attention_input(np.zeros((*shape, 3), np.uint8), 224, 1)
    assert max(seen.shape) == 4 * 224 and min(seen.shape[:2]) >= 8
    assert np.argmax(seen.shape[:2]) == np.argmax(shape)
