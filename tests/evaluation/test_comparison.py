"""Methods are compared on the same examples, each measured once, however batches are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from skimage import data

from yoda_jax.attention.maps import Reading
from yoda_jax.data.examples import Preparation, examples, prepare
from yoda_jax.data.held_out import HeldOut
from yoda_jax.data.records import Records, shard_path, write_manifest, write_shard
from yoda_jax.evaluation.comparison import Comparison
from yoda_jax.evaluation.measure import Measure
from yoda_jax.pictures import to_uint8, upsample
from yoda_jax.training.sharding import make_mesh

PHOTOS = {"coffee": data.coffee()[90:194, 150:300], "astronaut": data.astronaut()[:64, 100:196]}
TILES = Preparation("tiles", 32, 32, 4, "pil", attention_input=32, attention_stride=1)


class Shifted:
    """A method that enlarges bicubically and adds a colour, with noise of the keys given."""

    scale, resampling = 4, "pil"

    def sample(self, params, keys, lr, attention, progress):
        noise = jax.vmap(lambda key: jax.random.normal(key, (32, 32, 3)))(keys)
        picture = upsample(lr, 4, "pil") + params["colour"] + 0.01 * noise
        progress(1.0)
        return to_uint8(picture), jnp.isfinite(picture).all()

    def diffused(self, attention):
        return jnp.asarray(attention / 255).mean((1, 2, 3))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("records"))
    heads = np.random.default_rng(0).random((1, 8, 8), np.float32)
    found = [
        example
        for name, photo in PHOTOS.items()
        for example in examples(prepare(name, photo, TILES), heads, TILES)
    ]
    notes = {"settings": {}, "made_of": 0, "pictures": 2, "skipped": []}
    write_shard(shard_path(folder, 0, 1), found, notes)
    write_manifest(folder, 1, {"settings": {}, "pictures": 2, "skipped": [], "examples": 18})
    return Records(folder)


def compared(records, batch_size, count=11, sheet=4):
    held_out = HeldOut(records, count, batch_size, Reading())
    return Comparison(held_out, Measure(0, "pil", tiles=True), make_mesh(), sheet)


@pytest.fixture(scope="module")
def comparison(records):
    found = compared(records, 8)
    found.add_bicubic(Shifted())
    found.add("shifted", Shifted(), {"colour": 0.1}, seed=1)
    return found


def test_every_example_is_measured_once_in_its_place(comparison, records):
    held_out = comparison.held_out
    assert len(held_out.indices) == len(set(held_out.indices)) == 11
    for i, index in enumerate(held_out.indices):
        assert held_out.names[i] == records[index]["name"]
    for row in comparison.rows:
        assert {len(values) for values in row.values.values()} == {11}
    bicubic, shifted = comparison.rows
    assert set(bicubic.values["diffused"]) == {0.0}
    a = held_out.rows(range(11))["attention"] / 255
    np.testing.assert_allclose(shifted.values["diffused"], a.mean((1, 2, 3)), rtol=1e-5)
    # The tile itself is found in what the figures are of.
    hr, lr = (held_out.rows([7])[k] for k in ("hr", "lr"))
    up = np.asarray(to_uint8(upsample(jnp.asarray(lr), 4, "pil")))
    figures = comparison.measure(up, hr, lr)
    for metric in ("psnr", "ssim", "lpips", "lr_psnr"):
        assert bicubic.values[metric][7] == pytest.approx(figures[metric][0], rel=1e-5)
    assert np.mean(shifted.values["colour_shift"]) > 0.05 > np.mean(bicubic.values["colour_shift"])


def test_the_true_pictures_have_nothing_to_complain_of(comparison):
    rows = comparison.held_out.rows(range(4))
    figures = comparison.measure(rows["hr"], rows["hr"], rows["lr"])
    assert figures["psnr"] == figures["lr_psnr"] == [np.inf] * 4
    np.testing.assert_allclose(figures["ssim"], 1)
    np.testing.assert_allclose(figures["lpips"], 0, atol=1e-6)


def test_batches_do_not_matter(comparison, records):
    other = compared(records, 16)
    row = other.add("shifted", Shifted(), {"colour": 0.1}, seed=1)
    for metric, values in comparison.rows[1].values.items():
        np.testing.assert_allclose(row.values[metric], values, rtol=1e-3, atol=1e-5)


def test_sheet_holds_what_was_shown_whatever_came_first(comparison, records):
    sheet = comparison.sheet(0.05)
    columns = 1 + 1 + 1 + 4 + 1 + 1  # LR, bicubic, attention, masks, shifted, HR
    assert sheet.size == (4 + columns * 132, 14 + 4 + 4 * 132)
    alone = compared(records, 8)
    alone.add("shifted", Shifted(), {"colour": 0.1}, seed=1)
    assert alone.sheet(None).size == (4 + 4 * 132, 14 + 4 + 4 * 132)
    hr = np.asarray(sheet)[18 - 4 : 18 + 124, -132:-4]
    first = comparison.held_out.rows(comparison._on_sheet)["hr"][0]
    np.testing.assert_array_equal(hr, first.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_batches_out(records, processes):
    held_out = HeldOut(records, 11, 4, Reading())
    found = [list(held_out.batches(i, processes)) for i in range(processes)]
    assert {len(batches) for batches in found} == {3}
    counted = sorted(int(i) for batches in found for ids, ok, _ in batches for i in ids[ok])
    assert counted == list(range(11))
