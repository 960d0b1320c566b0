"""Pictures by tiles: what the whole gives, what leaving tiles out gives, and on what it depends."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.diffusion.formulation import SR3, SRDIFF
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.schedule import linear
from yoda_jax.models.blocks import Layers, uniform_init
from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.pictures import to_uint8
from yoda_jax.regression import Regression
from yoda_jax.tiled import Tiled
from yoda_jax.training.sharding import make_mesh
from yoda_jax.yoda import Yoda

SCALE, TILE = 2, 16
SHAPE = (1, 20, 27)  # LR pixels: 3 x 4 tiles


class Near(nn.Module):
    """A network that sees two pixels around each, and an LR pixel through its encoder."""

    continuous_level = True

    def setup(self):
        layers = Layers(uniform_init, jnp.float32, "highest", "none")
        self.encoder, self.first = layers.conv(4), layers.conv(8)
        self.last = layers.conv(3)

    def encode(self, lr):
        return self.encoder(lr)

    def enlarge(self, lr):
        return jnp.tanh(self.encoder(lr)[..., :3].repeat(SCALE, axis=1).repeat(SCALE, axis=2))

    def condition(self, encoded, lr_up):
        large = encoded.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        return jnp.concatenate([large, lr_up], axis=-1)

    def __call__(self, z, level, condition, train=False):
        told = jnp.broadcast_to(level[:, None, None, None], z[..., :1].shape)
        return self.last(nn.swish(self.first(jnp.concatenate([z, condition, told], -1))))


BETAS = linear(40, 1e-4, 0.3)
YODA = Yoda(Near(), SR3, BETAS, sampling_steps=8, scale=SCALE, resampling="pil", mask=Mask())


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 3 * x, jax.jit(YODA.init, static_argnums=1)(jax.random.key(1), 8))


@pytest.fixture(scope="module")
def lr():
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def attention():
    y, x = np.mgrid[0 : SCALE * SHAPE[1], 0 : SCALE * SHAPE[2]]
    bump = np.exp(-((y - 12) ** 2 + (x - 40) ** 2) / 120)
    return np.rint(200 * bump).astype(np.uint8)[None, ..., None]


KEYS = jax.random.key(5)[None]


def tiled(mesh, yoda=YODA, sparse=True, **changes):
    options = {"tile": TILE, "halo": 4, "batch": 2} | changes
    return Tiled(yoda, mesh, sparse=sparse, **options)


def sample(sampler, params, lr, attention, keys=KEYS):
    pictures, finite = sampler.sample(params, keys, lr, attention)
    assert finite
    return np.asarray(pictures, int)


class Apart(Near):
    """A network whose tiles disagree: it adds a value of each tile's own."""

    def __call__(self, z, level, condition, train=False):
        own = condition[..., -3:].mean((1, 2, 3), keepdims=True)
        return super().__call__(z, level, condition) + 0.5 * own


CHANGES = {
    "ddpm": {},
    "ddim": {"sampler": "ddim"},
    "multistep": {"sampler": "multistep"},
    "residual": {"formulation": SRDIFF},
    "masked input": {"mask": Mask(network_input="masked")},
    "encoder's picture": {"base": "encoder"},
    "its residual": {"base": "encoder", "formulation": SRDIFF},
    "truncated": {"mask": Mask(truncate=0.1)},
    "base": {"mask": None},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_tiles_left_out_change_nothing_and_neither_does_the_tiling(
    changes, mesh, params, lr, attention
):
    """The network sees less than a halo, so the whole frame at once is the same too."""
    yoda = dataclasses.replace(YODA, **changes)
    sparse, dense = (tiled(mesh, yoda, sparse) for sparse in (True, False))
    work = sparse.plan(attention)
    assert work.dense_evaluations == len(work.tiles) * 8 == dense.plan(attention).evaluations
    if yoda.mask is not None:
        assert work.evaluations < 0.5 * work.dense_evaluations
    ours = sample(sparse, params, lr, attention)
    np.testing.assert_array_equal(ours, sample(dense, params, lr, attention))
    whole, _ = yoda.sample(params, KEYS, lr, attention)
    # In 8 bits; sums differ in their order.
    assert np.abs(ours - np.asarray(whole, int)).max() <= 1
    assert ours.std() > 20


def test_where_tiles_disagree_no_line_is_seen(mesh, params):
    """Between two cores of a gradient the picture passes over in more than a pixel."""
    yoda = dataclasses.replace(YODA, network=Apart(), mask=None)
    ramp = np.linspace(40, 210, 60).astype(np.uint8)
    lr = np.broadcast_to(ramp[None, None, :, None], (1, 60, 60, 3))
    unused = np.zeros((1, 120, 120, 1), np.uint8)
    made = sample(tiled(mesh, yoda), params, np.ascontiguousarray(lr), unused)[0]
    hard = sample(tiled(mesh, yoda, halo=0), params, np.ascontiguousarray(lr), unused)[0]
    largest = [np.abs(np.diff(x.mean((0, 2)))).max() for x in (made, hard)]
    assert largest[0] < 0.5 * largest[1]


def test_full_attention_is_the_base_method(mesh, params, lr, attention):
    base = tiled(mesh, dataclasses.replace(YODA, mask=None))
    ours = sample(tiled(mesh), params, lr, np.full_like(attention, 255))
    np.testing.assert_array_equal(ours, sample(base, params, lr, attention))


@pytest.mark.parametrize("base", ["bicubic", "encoder"])
def test_without_attention_and_bound_it_is_the_enlarged_picture(base, mesh, params, lr, attention):
    yoda = dataclasses.replace(YODA, mask=Mask(lower_bound=0.0), base=base)
    sampler, nothing = tiled(mesh, yoda), np.zeros_like(attention)
    assert sampler.plan(nothing).evaluations == 0
    lr_up = np.asarray(yoda.enlarged(params, lr))
    expected = np.clip(np.rint(127.5 * (lr_up + 1)), 0, 255)
    np.testing.assert_array_equal(sample(sampler, params, lr, nothing), expected)


def test_a_picture_depends_neither_on_its_batch_nor_on_the_devices(mesh, params, lr, attention):
    alone = sample(tiled(mesh), params, lr, attention)
    pictures, maps = (np.concatenate([x[:, ::-1], x]) for x in (lr, attention))
    keys = jnp.stack([jax.random.key(9), jax.random.key(5)])
    for devices, batch in ((1, 5), (8, 8)):
        other = tiled(make_mesh(jax.devices()[:devices]), batch=batch)
        pair = sample(other, params, pictures, maps, keys)
        assert np.abs(pair[1] - alone[0]).max() <= 1, devices
        assert np.abs(pair[0] - alone[0]).max() > 20


def test_a_picture_that_is_smaller_than_a_tile(mesh, params, lr, attention):
    small, seen = lr[:, :3, :5], attention[:, :6, :10]
    sampler = tiled(mesh)
    assert len(sampler.plan(seen).tiles) == 1
    assert sample(sampler, params, small, seen).shape == (1, 6, 10, 3)


def test_progress_and_the_state_are_told_after_each_step(mesh, params, lr, attention):
    told, seen = [], []
    yoda = dataclasses.replace(YODA, base="encoder", formulation=SRDIFF)
    made, _ = tiled(mesh, yoda).sample(
        *(params, KEYS, lr, attention, told.append), lambda *shown: seen.append(shown)
    )
    assert told == sorted(told) and told[-1] == 1.0
    assert [shown[0] for shown in seen] == list(range(int(seen[0][1].max()) - 1, -1, -1))
    _, _, state, lr_up = seen[-1]
    np.testing.assert_array_equal(to_uint8(SRDIFF.decode(state[0], lr_up)), made)
    tiled(mesh, dataclasses.replace(yoda, mask=Mask(lower_bound=0.0))).sample(
        *(params, KEYS, lr, np.zeros_like(attention), told.append)
    )
    assert told[-1] == 1.0


def test_conditions_that_do_not_fit_are_made_anew(mesh, params, lr, attention, monkeypatch):
    expected = sample(tiled(mesh), params, lr, attention)
    monkeypatch.setattr("yoda_jax.tiled._CONDITION_BYTES", 2 * TILE * TILE * 7 * 4)  # one batch
    np.testing.assert_array_equal(sample(tiled(mesh), params, lr, attention), expected)


def test_a_network_without_diffusion_by_tiles(mesh):
    rng = np.random.default_rng(3)
    regression = Regression(RRDBNet(features=4, blocks=1), scale=4, resampling="matlab")
    params = jax.jit(regression.init, static_argnums=1)(jax.random.key(0), 8)
    lr = rng.integers(0, 256, (1, 70, 30, 3), dtype=np.uint8)
    unused = np.zeros((1, 280, 120, 1), np.uint8)
    sampler = Tiled(regression, mesh, tile=64, halo=8, batch=2)
    whole, _ = regression.sample(params, KEYS, lr, unused)
    ours = sample(sampler, params, lr, unused)
    assert np.abs(ours - np.asarray(whole, int)).max() <= 1 and sampler.seconds_a_batch(params) == 0


def test_a_batch_is_timed(mesh, params):
    assert 0 < tiled(mesh).seconds_a_batch(params) < 10
