"""The RRDB network, SRDiff's encoder, against the arrays of the public implementation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden.srdiff import KEYS, encoder, load_golden, parameters, shapes_of
from reference import assert_near

from yoda_jax.diffusion.loss import masked_loss
from yoda_jax.models import rrdb
from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.pictures import to_unit, upsample
from yoda_jax.weights.srdiff import reference_names

# The default generator takes ten times as long to compile.
KEY = jax.random.key(0, impl="unsafe_rbg")


@pytest.fixture(scope="module")
def golden():
    return load_golden()


@pytest.fixture(scope="module")
def params():
    """What the golden UNet holds as its encoder are the parameters of an encoder alone."""
    return parameters()["encoder"]


@pytest.fixture(scope="module")
def run():
    return jax.jit(
        lambda params, lr: encoder().apply(
            {"params": params}, lr, method=lambda m, lr: (m.features_of(lr), m(lr))
        )
    )


def test_features_picture_and_loss_of_the_training_before(golden, params, run):
    maps, picture = run(params, golden["img_lr"])
    assert len(maps) == 3
    for i, found in enumerate(maps):
        assert_near(found, golden[f"rrdb_fea/{i}"])
    assert_near(picture, golden["rrdb_out"])
    everywhere = jnp.ones((2, 32, 32, 1), bool)
    loss = masked_loss(picture, golden["img_hr"], everywhere).mean()
    assert_near(loss, golden["loss/rrdb_pretrain_l1"])


def test_another_scale_of_the_residuals_is_noticed(golden, params, monkeypatch):
    monkeypatch.setattr(rrdb, "_RESIDUAL", 0.2001)
    picture = jax.jit(encoder().apply)({"params": params}, golden["img_lr"])
    with pytest.raises(AssertionError, match="is off by"):
        assert_near(picture, golden["rrdb_out"])


def test_values_beyond_the_range_are_cut(golden, params, run):
    for bias, end in ((9.0, 1), (-9.0, -1)):
        last = params["conv_last"] | {"bias": np.full(3, bias, np.float32)}
        _, picture = run(params | {"conv_last": last}, golden["img_lr"])
        np.testing.assert_array_equal(picture, end)


def test_every_layer_learns_along_the_losses_true_slope(golden, params):
    """The gradient of the training before against a finite difference along itself."""

    @jax.jit
    @jax.value_and_grad
    def cost(params):
        picture = encoder().apply({"params": params}, golden["img_lr"][:1, :3, :4])
        return ((picture - golden["img_hr"][:1, :12, :16]) ** 2).mean()

    _, gradient = cost(params)
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient))
    length = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    step = 2e-3 / length
    (ahead, _), (behind, _) = (
        cost(jax.tree.map(lambda p, g, s=s: p + s * step * g, params, gradient)) for s in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * step), length**2, rtol=0.005)


@pytest.mark.parametrize("scale", [4, 8])
def test_pictures_of_any_size_and_aspect(scale):
    net = RRDBNet(features=4, blocks=1, scale=scale)
    lr = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 3, 5, 3)), jnp.float32)
    picture, params = jax.jit(net.init_with_output)(KEY, lr)
    assert picture.shape == (1, 3 * scale, 5 * scale, 3) and picture.dtype == jnp.float32
    assert np.abs(picture).max() <= 1
    assert {path[0] for path in flatten_dict(params["params"]) if "upconv" in path[0]} == {
        f"upconv_{i}" for i in range({4: 2, 8: 3}[scale])
    }


def test_with_a_skip_a_network_of_zeros_gives_the_bicubic_picture():
    """Borders apart, which MATLAB's rule mirrors."""
    net = RRDBNet(features=4, blocks=1, skip=True)
    lr = np.random.default_rng(0).integers(0, 256, (1, 9, 11, 3), np.uint8)
    params = jax.tree.map(
        lambda s: np.zeros(s.shape, np.float32), shapes_of(RRDBNet(features=4, blocks=1))
    )
    picture = net.apply({"params": params}, to_unit(lr))
    expected = np.clip(upsample(lr, 4, "matlab"), -1, 1)
    inside = np.s_[:, 8:-8, 8:-8]
    np.testing.assert_allclose(picture[inside], expected[inside], atol=1e-5)


def test_a_checkpoint_of_the_encoder_alone_has_the_same_entries():
    published = json.loads(KEYS.read_text())["srdiff_celeb8x"]["entries"]
    expected = {k.removeprefix("rrdb."): s for k, s in published.items() if k.startswith("rrdb.")}
    shapes = shapes_of(RRDBNet(features=32, blocks=8, scale=8))
    flat = flatten_dict(shapes)
    ours = {name: list(flat[path].shape[::-1]) for path, name in reference_names(shapes).items()}
    assert ours == expected  # the kernels are square


def test_odd_features_and_other_scales_are_refused():
    assert RRDBNet().problem() is None
    assert "features=33 must be even" in RRDBNet(features=33).problem()
    assert "scale=2 must be 4 or 8" in RRDBNet(scale=2).problem()
