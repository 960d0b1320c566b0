"""Sampling on many devices: the same pictures as on one, and none of a diverged network."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from yoda_jax.diffusion.formulation import SR3
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.schedule import linear
from yoda_jax.errors import UserError
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.sampling import local_rows, sample_rows
from yoda_jax.training.sharding import make_mesh, share_out
from yoda_jax.yoda import Yoda

NETWORK = SR3UNet(features=8, multipliers=(1,), blocks=1, groups=4, attention_resolutions=())
BETAS = linear(40, 1e-4, 0.3)
YODA = Yoda(NETWORK, SR3, BETAS, sampling_steps=20, scale=2, resampling="pil", mask=Mask())
IDS = np.array([5, 3, 0, 12, 7, 100, 2, 9])


class Halved(nn.Module):
    """A network without weights that compiles quickly."""

    continuous_level = True

    def encode(self, lr):
        return lr[..., :0]

    def condition(self, encoded, lr_up):
        return lr_up

    def __call__(self, z, level, condition, train=False):
        return 0.5 * z


@pytest.fixture(scope="module")
def params():
    """Weights of numpy, since drawing orthogonal ones takes long to compile."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda key: YODA.init(key, 4), jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def rows():
    """Eight pictures; the devices of the first two have nothing to diffuse for long."""
    rng = np.random.default_rng(0)
    attention = rng.integers(0, 256, (8, 8, 8, 1), np.uint8)
    attention[:2] = 0
    return {"lr": rng.integers(0, 256, (8, 4, 4, 3), np.uint8), "attention": attention}


@pytest.fixture(scope="module")
def sampler():
    return partial(sample_rows, YODA, make_mesh(), seed=1)


@pytest.fixture(scope="module")
def shares():
    return []


@pytest.fixture(scope="module")
def pictures(sampler, params, rows, shares):
    return sampler(params, IDS, rows, progress=shares.append)


def assert_same(found, expected):
    """Equal but for values at the border of two levels."""
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 1e-2


def test_eight_devices_give_the_pictures_of_one(pictures, params, rows):
    assert jax.device_count() == 8
    one = Mesh(np.array(jax.devices()[:1]), ("data",))
    assert_same(sample_rows(YODA, one, params, IDS, rows, 1), pictures)
    assert pictures.shape == (8, 8, 8, 3) and pictures.dtype == np.uint8


def test_a_picture_depends_on_seed_and_id_alone(sampler, pictures, params, rows):
    order = np.random.default_rng(1).permutation(8)
    shuffled = {name: values[order] for name, values in rows.items()}
    assert_same(sampler(params, IDS[order], shuffled), pictures[order])
    ids = IDS.copy()
    ids[4] = 1000
    others = np.arange(8) != 4
    renamed = sampler(params, ids, rows)
    assert_same(renamed[others], pictures[others])
    assert (renamed[4] != pictures[4]).mean() > 0.5


def test_another_seed_gives_other_pictures(rows):
    simple = dataclasses.replace(YODA, network=Halved(), sampling_steps=2, mask=None)
    one, other = (sample_rows(simple, make_mesh(), {}, IDS, rows, seed) for seed in (1, 2))
    assert ((other != one).mean((1, 2, 3)) > 0.2).all()


def test_progress_goes_to_1_in_ten_portions(pictures, shares):
    np.testing.assert_allclose(shares, np.arange(1, 11) / 10)


def test_diverged_weights_are_refused(sampler, params, rows):
    diverged = jax.tree.map(lambda leaf: leaf * np.nan, params)
    with pytest.raises(UserError, match="NaN or infinity.*earlier checkpoint"):
        sampler(diverged, IDS, rows)


def test_rows_come_back_in_the_order_they_were_placed():
    values = np.arange(16).reshape(8, 2)
    np.testing.assert_array_equal(local_rows(share_out(make_mesh(), {"v": values})["v"]), values)
