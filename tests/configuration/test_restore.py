"""An encoder is trained by the same job, then taken over, frozen, by a network that needs it."""

import jax
import numpy as np
import pytest
from skimage import data

from configs import demo
from yoda_jax.configuration import build, inference, restore
from yoda_jax.data.batches import whole
from yoda_jax.data.degrade import downsample
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute, train
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.upscaler import Upscaler


def configuration(name, **fields):
    config = demo.get_config()
    config.mode = "train"
    config.data.update(hr_size=32, stride=64, patch=16, resampling="matlab")
    config.attention.update(source="edges", input_size=64, cell=4)
    config.train.update(batch_size=8, steps=2, checkpoint_every=1, log_every=2)
    config.eval.update(pictures=8, batch_size=8)
    config.model.update(name=name, features=8)
    if name == "rrdb":
        config.mask.enabled, config.model.blocks, config.model.skip = False, 2, True
    else:
        config.model.multipliers = (1, 2)
        chain = {"schedule": "cosine", "steps": 20, "sampling_steps": 3}
        config.diffusion.update(formulation="srdiff", base="encoder", **chain)
    config.update_from_flattened_dict(fields)
    return config


def weights(workdir, config):
    """(the newest parameters, averaged; the state before its last step's update)."""
    method, mesh = inference.method(config), sharding.make_mesh()
    _, abstract = build.state(config, method, mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(abstract)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("rrdb")
    config = configuration("rrdb")
    precompute.run(config, str(workdir))
    train.fit(config, str(workdir))
    return workdir


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """(workdir, completed configuration) of a network on that encoder."""
    workdir = tmp_path_factory.mktemp("srdiff")
    config = configuration("srdiff", **{"model.encoder": str(encoder)})
    config.data.records = str(encoder / "records")
    config = restore.with_encoder(config, Run(workdir))
    train.fit(config, str(workdir))
    return workdir, config


def test_shape_comes_from_the_encoders_run(trained):
    model = trained[1].model
    assert (model.encoder_features, model.encoder_blocks, model.encoder_skip) == (8, 2, True)


def test_encoder_stays_as_it_was_and_has_no_moments(encoder, trained):
    workdir, config = trained
    state = weights(workdir, config)
    source = weights(encoder, configuration("rrdb"))
    for params in (state.params, state.ema):
        for ours, theirs in zip(
            jax.tree.leaves(params["encoder"]), jax.tree.leaves(source.ema), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    trainable = {k: v for k, v in state.params.items() if k != "encoder"}
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(trainable))


def test_all_else_is_trained(trained):
    workdir, config = trained
    first = inference.method(config).init(jax.random.key(config.seed), 8)
    for name, part in weights(workdir, config).params.items():
        if name != "encoder":
            for ours, before in zip(
                jax.tree.leaves(part), jax.tree.leaves(first[name]), strict=True
            ):
                assert np.any(np.asarray(ours) != np.asarray(before)), name


def test_evaluation_and_resumption_do_not_need_the_encoders_run(trained, monkeypatch):
    workdir, config = trained
    alone = configuration("srdiff", **{"data.records": config.data.records, "train.steps": 3})
    alone = restore.with_encoder(alone, Run(workdir))
    assert alone.model.encoder_blocks == 2
    monkeypatch.setattr(restore, "put_encoder", None)
    train.fit(alone, str(workdir))
    assert restore.weights(alone, Run(workdir)).step == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "model.encoder is not set: model.name=srdiff needs .* model.name=rrdb"),
        ({"model.encoder": "/nowhere"}, "model.encoder=/nowhere must be .* no checkpoint"),
        ({"model.encoder": "ENCODER", "data.scale": 8}, "with data.scale=8, found 4"),
        ({"model.encoder": "SRDIFF"}, "with model.name='rrdb', found 'srdiff'"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(fields, message, encoder, trained, tmp_path):
    places = {"ENCODER": str(encoder), "SRDIFF": str(trained[0])}
    fields = {name: places.get(value, value) for name, value in fields.items()}
    with pytest.raises(UserError, match=message):
        restore.with_encoder(configuration("srdiff", **fields), Run(tmp_path))


def test_attention_by_the_encoder_is_what_its_run_adds(encoder, trained, tmp_path):
    """In records as for one's own picture, whose encoder lies in the checkpoint."""
    fields = {"attention.source": "encoder", "model.encoder": str(encoder), "data.stride": 256}
    config = configuration("srdiff", **fields)
    precompute.run(config, str(tmp_path))
    assert precompute.settings(config, "eval")["attention.weights"].startswith("sha256:")
    nowhere = configuration("srdiff", **fields | {"model.encoder": "/nowhere"})
    assert precompute.settings(nowhere, "eval")["attention.weights"] is None
    record = build.records(config, Run(tmp_path), "eval")
    found = whole(record, [0], inference.reading(config))["attention"][0]
    filled = restore.with_encoder(config, Run(tmp_path))
    upscaler = Upscaler(filled, {"encoder": restore.encoder(filled)})
    picture = getattr(data, record[0]["name"].partition(".")[0])()
    seen = upscaler.attention(downsample(picture, 4, "matlab"))
    assert seen.std() > 10
    np.testing.assert_array_equal(found, seen[:32, :32])


def test_a_run_tells_its_own_configuration(trained):
    workdir, config = trained
    assert restore.saved_configuration(Run(workdir))["model"]["encoder_blocks"] == 2
    assert restore.saved_configuration(Run(workdir), 2)["train"] == config.train.to_dict()
    assert restore.saved_configuration(Run(workdir), 99) is None
    assert restore.saved_configuration(Run(workdir / "none")) is None


def test_networks_without_an_encoder_need_nothing(tmp_path):
    config = configuration("rrdb")
    assert restore.with_encoder(config, Run(tmp_path)).to_dict() == config.to_dict()
