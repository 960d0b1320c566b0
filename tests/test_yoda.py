"""The method around a network: what training and sampling hand it, and that they hand the same."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

from yoda_jax.data.degrade import downsample
from yoda_jax.diffusion.formulation import SR3, SRDIFF
from yoda_jax.diffusion.loss import training_loss
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.sampler import frame_noise, sample
from yoda_jax.diffusion.schedule import linear, noise_schedule
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.pictures import upsample
from yoda_jax.yoda import Yoda

SEEN = {}


class Pointwise(nn.Module):
    """A network of one dense layer a pixel that notes what it is shown."""

    continuous_level = True

    def setup(self):
        self.picture, self.out = nn.Dense(4), nn.Dense(3)

    def encode(self, lr):
        SEEN.update(lr=lr)
        return lr

    def condition(self, encoded, lr_up):
        SEEN.update(lr_up=lr_up)
        return self.picture(lr_up)

    def __call__(self, z, level, condition, train=False):
        SEEN.update(z=z, level=level, train=train)
        seen = jnp.concatenate([z, condition * level[:, None, None, None]], axis=-1)
        return jnp.tanh(self.out(seen))


class PointwiseOfSteps(Pointwise):
    """The same, told the step."""

    continuous_level = False


BETAS = linear(20, 1e-4, 0.4)
YODA = Yoda(
    Pointwise(),
    SR3,
    BETAS,
    sampling_steps=4,
    scale=4,
    resampling="pil",
    mask=Mask(lower_bound=0.0, times="uniform"),
)
SRDIFF_YODA = dataclasses.replace(
    YODA,
    network=PointwiseOfSteps(),
    formulation=SRDIFF,
    resampling="matlab",
    mask=Mask(0.1, times="area", loss_norm="area", context="lr", network_input="masked"),
    penalty="l2",
)
# The default generator takes ten times as long to compile.
KEY = jax.random.key(2, impl="unsafe_rbg")
KEYS = jax.random.split(KEY, 3)
BOTH = pytest.mark.parametrize("yoda", [YODA, SRDIFF_YODA], ids=["sr3", "srdiff"])


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(lambda key: YODA.init(key, 4), KEY)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def batch():
    """Three crops of a photograph with attention that is neither 0 nor 255 throughout."""
    picture = data.astronaut()
    hr = np.stack([picture[y : y + 16, 200:216] for y in (60, 100, 140)])
    lr = np.stack([downsample(h, 4, "pil") for h in hr])
    attention = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    return {"hr": hr, "lr": lr, "attention": attention}


def sampled(yoda, params, batch):
    """The 8-bit pictures as whole numbers that can be subtracted."""
    pictures, finite = yoda.sample(params, KEYS, batch["lr"], batch["attention"])
    assert pictures.dtype == np.uint8 and finite
    return np.asarray(pictures, int)


@pytest.mark.parametrize("resampling", ["pil", "matlab"])
def test_condition_is_made_from_the_lr_picture_by_the_resampling(params, batch, resampling):
    yoda = dataclasses.replace(YODA, resampling=resampling)
    yoda.loss(params, KEY, batch)
    expected = upsample(batch["lr"], 4, resampling)
    other = upsample(batch["lr"], 4, "matlab" if resampling == "pil" else "pil")
    assert np.abs(expected - other).max() > 0.01
    np.testing.assert_array_equal(SEEN["lr_up"], expected)
    np.testing.assert_allclose(127.5 * (np.asarray(SEEN["lr"]) + 1), batch["lr"], atol=1e-4)
    assert SEEN["train"]
    if resampling == "pil":
        pillow = np.stack([Image.fromarray(x).resize((16, 16), Image.BICUBIC) for x in batch["lr"]])
        assert np.abs(127.5 * (np.asarray(SEEN["lr_up"]) + 1) - pillow).max() < 1.001


@BOTH
def test_loss_is_the_training_objective_of_the_pictures(params, batch, yoda):
    loss, diagnostics = yoda.loss(params, KEY, batch)
    lr_up = upsample(batch["lr"], 4, yoda.resampling)
    hr = jnp.asarray(batch["hr"], jnp.float32) / 127.5 - 1

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"][None, None, None]

    def predict(z, level):
        condition = dense(lr_up, params["picture"]) * level[:, None, None, None]
        return jnp.tanh(dense(jnp.concatenate([z, condition], axis=-1), params["out"]))

    expected, measured = training_loss(
        predict,
        jax.random.split(KEY)[0],
        noise_schedule(BETAS),
        yoda.formulation,
        hr,
        lr_up,
        batch["attention"] / np.float32(255),
        yoda.mask,
        penalty=yoda.penalty,
        continuous=yoda.network.continuous_level,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for found, value in zip(diagnostics, measured, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-5)


def test_loss_reaches_every_parameter_the_conditions_included(params, batch):
    gradient = jax.grad(lambda p: YODA.loss(p, KEY, batch)[0])(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@BOTH
@pytest.mark.parametrize("lower_bound", [0.1, -0.5])
def test_without_a_mask_attention_means_nothing(params, batch, yoda, lower_bound):
    """Whatever the lower bound of a mask is: that of attention 255 is the base method."""
    plain = dataclasses.replace(yoda, mask=None)
    mask = dataclasses.replace(yoda.mask, lower_bound=lower_bound)
    full = {**batch, "attention": np.full_like(batch["attention"], 255)}
    everywhere = dataclasses.replace(yoda, mask=dataclasses.replace(mask, lower_bound=0.1))
    for found, expected in zip(
        jax.tree.leaves(plain.loss(params, KEY, batch)),
        jax.tree.leaves(everywhere.loss(params, KEY, full)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    expected = sampled(everywhere, params, full)
    assert np.abs(sampled(plain, params, batch) - expected).max() <= 1
    masked = dataclasses.replace(yoda, mask=mask)
    assert np.abs(sampled(masked, params, batch) - expected).max() > 6
    np.testing.assert_array_equal(plain.diffused(batch["attention"]), 1)
    share = np.clip(batch["attention"] / 255 + lower_bound, 0, 1).mean((1, 2, 3))
    np.testing.assert_allclose(masked.diffused(batch["attention"]), share, rtol=1e-5)
    cut = dataclasses.replace(masked, mask=dataclasses.replace(mask, truncate=0.5))
    assert (cut.diffused(batch["attention"]) < share).all()


@BOTH
@pytest.mark.parametrize("steps", [4, 7, 20])
def test_portions_of_the_chain_are_one_sample(params, batch, yoda, steps):
    """Seven steps cannot be divided into portions of equal length."""
    yoda = dataclasses.replace(yoda, sampling_steps=steps)
    schedule, lr_up = noise_schedule(BETAS, steps), upsample(batch["lr"], 4, yoda.resampling)
    lr = jnp.asarray(batch["lr"], jnp.float32) / 127.5 - 1

    @jax.jit
    def whole(params):
        variables = {"params": params}
        condition = yoda.network.apply(variables, lr, lr_up, method="condition")
        level = schedule.signal if yoda.network.continuous_level else schedule.index
        return sample(
            lambda z, t: yoda.network.apply(variables, z, level[t], condition),
            schedule,
            frame_noise(KEYS, (16, 16, 3)),
            yoda.formulation.base(lr_up),
            batch["attention"] / np.float32(255),
            mask=yoda.mask,
        )

    picture = yoda.formulation.decode(whole(params), lr_up)
    levels = np.clip(127.5 * (np.asarray(picture, np.float64) + 1), 0, 255)
    shares = []
    pictures, _ = yoda.sample(params, KEYS, batch["lr"], batch["attention"], shares.append)
    assert np.abs(pictures - levels).max() < 0.51
    np.testing.assert_allclose(shares, np.arange(1, len(shares) + 1) / len(shares))
    assert len(shares) == {4: 4, 7: 7, 20: 10}[steps]


def test_the_chain_has_the_indices_of_training():
    np.testing.assert_array_equal(YODA.schedule().index[1:], [4, 9, 14, 19])


def test_without_attention_and_bound_the_result_is_the_upsampled_picture(params, batch):
    dark = {**batch, "attention": np.zeros_like(batch["attention"])}
    expected = 127.5 * (np.asarray(upsample(batch["lr"], 4, "pil")) + 1)
    assert np.abs(sampled(YODA, params, dark) - expected).max() < 1e-3


def test_pictures_are_rounded_and_clipped_and_have_to_be_finite(batch):
    z = np.zeros((3, 16, 16, 3), np.float32)
    z[0, 0, 0] = [-3, 3, 100.4 / 127.5 - 1]
    pictures, finite = YODA._finish(None, {}, batch["lr"], z)
    np.testing.assert_array_equal(pictures[0, 0, 0], [0, 255, 100])
    assert finite
    for value in (np.nan, np.inf):
        z[1, 5, 5, 0] = value
        assert not YODA._finish(None, {}, batch["lr"], z)[1]


def test_parameters_do_not_depend_on_the_pictures_size():
    network = SR3UNet(
        features=8,
        multipliers=(1, 2),
        blocks=1,
        groups=4,
        image_size=16,
        attention_resolutions=(8,),
    )
    yoda = dataclasses.replace(YODA, network=network)
    shapes = [
        jax.eval_shape(lambda key, size=size: yoda.init(key, size), jax.random.key(0))
        for size in (2, 4, 9)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert any("attention" in name for name in shapes[0])
