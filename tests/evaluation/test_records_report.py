"""What is said of records: diffused fractions, and a sheet of whole pictures."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from configs import default
from yoda_jax.attention.maps import Reading
from yoda_jax.data.batches import whole
from yoda_jax.data.records import Records
from yoda_jax.evaluation.records_report import Masking, _whole_picture, diffused_fractions
from yoda_jax.jobs import precompute

PHOTOS = {"chelsea": data.chelsea()[60:140, 150:246], "coffee": data.coffee()[60:124, 150:214]}


def configuration(folder, **attention):
    config = default.get_config()
    config.data.update(
        train=f"folder:{folder}", holdout=1, crop="tiles", hr_size=32, stride=32, scale=4, threads=1
    )
    config.attention.update(source="edges", input_size=32, cell=4, **attention)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of two photographs, the records of one of them)."""
    folder, workdir = (tmp_path_factory.mktemp(name) for name in ("album", "workdir"))
    for name, photo in PHOTOS.items():
        Image.fromarray(photo).save(folder / f"{name}.png")
    precompute.run(configuration(folder), str(workdir))
    return folder, workdir / "records/train"


def test_diffused_fraction_is_that_of_the_examples(made):
    found = Records(made[1])
    attention = whole(found, range(len(found)), Reading())["attention"] / 255
    for bound in (0.05, 0.3):  # of today, whatever it was when the records were made
        expected = np.minimum(attention + bound, 1).mean(axis=(1, 2, 3))
        fractions = diffused_fractions(Masking(Reading(), bound), found)
        np.testing.assert_allclose(fractions, expected, rtol=1e-5)
    assert 0.1 < expected.min() < expected.max() <= 1


def test_uniform_attention_diffuses_everything(made, tmp_path):
    config = configuration(made[0])
    config.attention.source = "uniform"
    precompute.run(config, str(tmp_path))
    for split in ("train", "eval"):
        records = Records(tmp_path / "records" / split)
        fractions = diffused_fractions(Masking(Reading(), config.mask.lower_bound), records)
        assert (fractions == 1).all()


def test_a_picture_is_put_together_from_its_tiles(made):
    records = Records(made[1])
    (name,) = {records[i]["name"] for i in range(len(records))}
    photo = PHOTOS[name.removesuffix(".png")]
    height, width = (side // 32 * 32 for side in photo.shape[:2])
    for index in (0, len(records) - 1):
        found, example = _whole_picture(records, index)
        assert example["name"] == name and found.shape == photo.shape
        np.testing.assert_array_equal(found[:height, :width], photo[:height, :width])
        assert (found[height:] == 128).all() and (found[:, width:] == 128).all()


def test_sheet_shows_each_picture_once_with_heads_and_nested_masks(made):
    sheet = np.asarray(Image.open(made[1] / "sheet.png"))
    columns = 1 + 1 + 1 + 4  # photograph, the one head, A, masks
    assert sheet.shape == (14 + 4 + 132, 4 + columns * 132, 3)
    tops = [sheet[14 : 14 + 80, 4 + 132 * i : 4 + 132 * i + 96, 0] for i in range(3, 7)]
    for later, earlier in zip(tops[1:], tops, strict=False):
        assert ((earlier == 255) <= (later == 255)).all()
    assert not list(made[1].glob("*.part"))
