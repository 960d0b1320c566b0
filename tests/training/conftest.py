"""A tiny method with its state and batches, compiled once for all tests of training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from yoda_jax.diffusion.formulation import SR3
from yoda_jax.diffusion.schedule import linear
from yoda_jax.training.state import create
from yoda_jax.training.step import make_train_step
from yoda_jax.yoda import Yoda


class TwoLayers(nn.Module):
    """A network with the interface of all networks, that compiles in a second."""

    continuous_level = True

    def setup(self):
        self.first, self.last = nn.Dense(16), nn.Dense(3)

    def encode(self, lr):
        return lr[..., :0]

    def condition(self, encoded, lr_up):
        return lr_up

    def __call__(self, z, level, condition, train=False):
        told = jnp.broadcast_to(level[:, None, None, None], z[..., :1].shape)
        with jax.numpy_rank_promotion("allow"):  # flax's own layer promotes its bias
            return self.last(nn.swish(self.first(jnp.concatenate([z, condition, told], -1))))


@pytest.fixture(scope="session")
def tiny_yoda():
    return Yoda(
        network=TwoLayers(),
        formulation=SR3,
        betas=linear(10, 1e-4, 0.8),
        sampling_steps=10,
        scale=2,
        resampling="pil",
    )


@pytest.fixture(scope="session")
def optimizer():
    return optax.adam(1e-3)


@pytest.fixture(scope="session")
def make_state(tiny_yoda, optimizer):
    return jax.jit(lambda: create(tiny_yoda.init(jax.random.key(0), 4), optimizer, ema=True))


@pytest.fixture(scope="session")
def make_step(tiny_yoda, optimizer):
    """The jitted step for a number of parts; jax caches what it compiles."""
    steps = {}

    def make(accumulate=1):
        if accumulate not in steps:
            step = make_train_step(tiny_yoda.loss, optimizer, 0.99, accumulate)
            steps[accumulate] = jax.jit(step)
        return steps[accumulate]

    return make


@pytest.fixture(scope="session")
def batch():
    rng = np.random.default_rng(0)
    shapes = {"hr": (16, 8, 8, 3), "lr": (16, 4, 4, 3), "attention": (16, 8, 8, 1)}
    return {k: rng.integers(0, 256, s).astype(np.uint8) for k, s in shapes.items()}
