"""The map of what an encoder adds: where it changes the bicubic picture, and as much."""

import numpy as np
from PIL import Image
from skimage import data

from yoda_jax.attention.classical import BANDWIDTH
from yoda_jax.attention.encoder import EncoderAttention

LR = np.asarray(Image.fromarray(data.coffee()[:128, :192]).resize((48, 32)))


def enlarged(lr):
    size = (4 * lr.shape[1], 4 * lr.shape[0])
    return np.array(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))


def heads(change):
    return next(iter(EncoderAttention(lambda lr: change(enlarged(lr)), 8)([LR])))


def test_a_change_is_a_blob_of_its_place_and_size():
    def lighter(picture):
        picture[40:50, 100:120] = np.where(picture[40:50, 100:120] < 128, 200, 50)
        return picture

    found = heads(lighter)
    assert found.shape == (1, 4, 6) and found.dtype == np.float32
    assert np.unravel_index(found[0].argmax(), found[0].shape) == (1, 3)
    changed = np.abs(lighter(enlarged(LR)).astype(float) - enlarged(LR)).mean()
    np.testing.assert_allclose(found.mean(), changed, rtol=1e-4)  # nothing of it leaves the picture
    assert 4 * BANDWIDTH * 128 < 40


def test_where_nothing_is_added_nothing_is_diffused():
    np.testing.assert_array_equal(heads(lambda picture: picture), 0)
