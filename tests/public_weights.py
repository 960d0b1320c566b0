"""Weights of the golden networks as public files hold them."""

import json

import jax
import numpy as np
from golden import sr3
from golden.recipe import recipe

from configs import demo
from yoda_jax.configuration import restore
from yoda_jax.diffusion.schedule import linear
from yoda_jax.runs import Run


def configuration(name="sr3", **fields):
    """That of the golden networks, on the demonstration's photographs."""
    config = demo.get_config()
    config.mode = "train"
    config.data.update(hr_size=32, stride=64, patch=16)
    config.attention.update(source="edges", input_size=64, cell=4)
    config.train.update(
        batch_size=2, steps=1, checkpoint_every=1, log_every=1, warmup_steps=0, ema_decay=0.0
    )
    config.eval.update(pictures=2, batch_size=2)
    config.model.update(name=name, features=16)
    if name == "sr3":
        config.model.update(attention_resolutions=(8,), groups=8)
    else:
        config.data.resampling = "srdiff"
        config.diffusion.update(
            formulation="srdiff", schedule="cosine", steps=100, sampling_steps=100
        )
    if name == "rrdb":
        config.mask.enabled, config.model.blocks = False, 2
    config.update_from_flattened_dict(fields)
    return config


def sr3_entries():
    """The golden network as SR3's trainer saves it, with the table of its schedule."""
    shapes = json.loads(sr3.KEYS.read_text())["tiny"]["entries"]
    drawn = recipe([(name, tuple(shape)) for name, shape in shapes.items()], seed=1234)
    betas = np.array(linear(2000, 1e-6, 1e-2), np.float32)
    entries = {f"denoise_fn.{name}": value for name, value in drawn.items()}
    return {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas)} | entries


def parameters_of(config, workdir):
    run = Run(workdir)
    weights = restore.weights(restore.with_encoder(config, run), run)
    assert weights.step == 0
    return weights.params


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
