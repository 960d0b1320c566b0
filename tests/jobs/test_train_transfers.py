"""A step takes what lies on the devices already."""

import albums
import jax
import jax.numpy as jnp
import pytest

from yoda_jax.jobs import train
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints


def configuration(album, reference):
    config = albums.configuration(album, data__records=str(reference / "records"))
    config.model.update(features=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)
    config.train.update(
        steps=3, batch_size=8, log_every=1, checkpoint_every=2, eval_every=2, eval_pictures=1
    )
    config.diffusion.sampling_steps = 1
    return config


def test_a_batch_that_is_left_on_one_device_is_an_error(album, reference, tmp_path, monkeypatch):
    config = configuration(album, reference)
    train.fit(config, str(tmp_path / "run"))
    assert Checkpoints(Run(tmp_path / "run").checkpoints).latest() == 3
    monkeypatch.setattr(sharding, "share_out", lambda mesh, rows: jax.tree.map(jnp.array, rows))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed device-to-device transfer"):
        train.fit(config, str(tmp_path / "other"))
