"""Pictures stand in their places, and masks are those of training."""

import io

import numpy as np
from PIL import Image

from yoda_jax.evaluation.sheet import encoded, mask_columns, picture_sheet


def test_sheet_copies_pixels_into_their_places():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    grey = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    full = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    columns = {"LR": small, "attention": grey, "HR": list(full)}
    sheet = picture_sheet(columns, 16)
    margin, header = 4, 14
    assert sheet.mode == "RGB"
    assert sheet.size == (margin + 3 * (16 + margin), header + margin + 3 * (16 + margin))
    pixels = np.array(sheet)
    outside = np.ones(pixels.shape[:2], bool)
    for i, pictures in enumerate((small.repeat(4, 1).repeat(4, 2), grey.repeat(3, -1), full)):
        left = margin + 20 * i
        for j in range(3):
            top = header + 20 * j
            place = np.s_[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(pixels[place], pictures[j])
            outside[place] = False
        # The label stands above its column.
        assert (pixels[:header, left : left + 16] < 128).any()
    outside[:header] = False
    assert len(np.unique(pixels[outside], axis=0)) == 1


def test_masks_are_those_of_the_times_and_nest():
    attention = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    masks = mask_columns(attention, 0.05)
    assert list(masks) == ["M(0.9T)", "M(0.5T)", "M(0.2T)", "M(0.05T)"]
    for (label, mask), time in zip(masks.items(), (0.9, 0.5, 0.2, 0.05), strict=True):
        expected = attention / 255 + 0.05 >= time - 1e-9
        np.testing.assert_array_equal(mask == 255, expected, err_msg=label)


def test_a_sheet_is_encoded_as_it_is():
    sheet = picture_sheet({"a": [np.full((4, 4, 3), 9, np.uint8)]}, 8)
    found = Image.open(io.BytesIO(encoded(sheet)))
    assert found.format == "PNG"
    np.testing.assert_array_equal(found, sheet)
