"""Super-resolution without diffusion: the network's picture, through the same jobs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yoda_jax.pictures import upsample
from yoda_jax.regression import Regression


class Doubled(nn.Module):
    """Four times as large, each pixel copied and scaled by what is learned."""

    @nn.compact
    def __call__(self, lr):
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * lr.repeat(4, axis=1).repeat(4, axis=2)


METHOD = Regression(Doubled(), scale=4, resampling="pil")
PARAMS = {"gain": jnp.asarray(0.5)}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "hr": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
        "lr": rng.integers(0, 256, (8, 4, 4, 3), np.uint8),
        "attention": np.zeros((8, 16, 16, 1), np.uint8),
    }


def test_parameters_are_the_networks():
    assert METHOD.init(jax.random.key(0), 4) == {"gain": 1.0}


def test_loss_is_the_mean_distance_to_the_picture(batch):
    loss, diagnostics = METHOD.loss(PARAMS, jax.random.key(0), batch)
    hr, lr = (batch[name] / 127.5 - 1 for name in ("hr", "lr"))
    picture = 0.5 * lr.repeat(4, axis=1).repeat(4, axis=2)
    assert float(loss) == pytest.approx(np.abs(picture - hr).mean(), rel=1e-5)
    lr_up = np.asarray(upsample(jnp.asarray(batch["lr"]), 4, "pil"))
    np.testing.assert_allclose(diagnostics.y0_offset, (picture - lr_up).mean((0, 1, 2)), atol=1e-5)
    assert diagnostics.mask_fraction == 1
    squared, _ = Regression(Doubled(), 4, "pil", "l2").loss(PARAMS, jax.random.key(0), batch)
    assert float(squared) == pytest.approx(((picture - hr) ** 2).mean(), rel=1e-5)


def test_samples_are_the_networks_pictures_whatever_noise_and_attention(batch):
    keys, shares = jax.random.split(jax.random.key(0), 8), []
    found, finite = METHOD.sample(PARAMS, keys, batch["lr"], batch["attention"], shares.append)
    expected = 0.5 * (batch["lr"] / 127.5 - 1).repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(found, np.rint(127.5 * (expected + 1)), atol=1)
    assert finite and shares == [1.0]
    again, _ = METHOD.sample(PARAMS, keys[::-1], batch["lr"], batch["attention"] + 255)
    np.testing.assert_array_equal(found, again)
    _, finite = METHOD.sample({"gain": jnp.nan}, keys, batch["lr"], batch["attention"])
    assert not finite
    np.testing.assert_array_equal(METHOD.diffused(batch["attention"]), np.zeros(8))
