"""Configurations become the objects that they describe."""

import jax
import numpy as np
import pytest

from configs import default, demo, rrdb_celeba, rrdb_df2k, sr3_ffhq, srdiff_celeba, srdiff_df2k
from yoda_jax.attention.classical import ClassicalAttention
from yoda_jax.configuration import build, inference
from yoda_jax.errors import UserError

SHIPPED = {"default": default.get_config(), "demo": demo.get_config()} | {
    variant: sr3_ffhq.get_config(variant) for variant in sr3_ffhq.VARIANTS
}


@pytest.mark.parametrize("name", SHIPPED)
def test_configuration_reaches_the_method(name):
    config = SHIPPED[name]
    yoda, preparation = inference.method(config), build.preparation(config, 14)
    assert yoda.network.image_size == preparation.hr_size == config.data.hr_size
    assert preparation.attention_stride == 14
    assert yoda.scale == preparation.scale == config.data.scale
    assert yoda.network.multipliers == tuple(config.model.multipliers)
    assert len(yoda.betas) == config.diffusion.steps
    np.testing.assert_allclose((yoda.betas[0], yoda.betas[-1]), (1e-6, 1e-2))
    if name in sr3_ffhq.VARIANTS:
        lr_size, hr_size = (int(size) for size in name.split("_")[:2])
        assert hr_size == config.data.hr_size and hr_size // lr_size == config.data.scale


def test_maps_without_learning_need_no_weights():
    config = default.get_config()
    config.attention.update(source="sift", weights="", cell=3)
    assert isinstance(inference.attention(config), ClassicalAttention)
    assert inference.attention_settings(config) == {"attention.cell": 3}


def test_weights_that_are_not_at_hand_are_not_known(tmp_path):
    """Finished records can be used on a machine without the backbone."""
    config = default.get_config()
    config.attention.weights = str(tmp_path / "absent.pth")
    assert inference.attention_settings(config) == {"attention.weights": None}


def test_weights_that_cannot_be_read_are_not_taken_for_absent_ones(tmp_path):
    config = default.get_config()
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing of the kind")
    config.attention.weights = str(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="damaged.safetensors must be a safetensors file"):
        inference.attention_settings(config)


def test_weights_are_known_by_their_bytes(tmp_path):
    config = default.get_config()
    found = []
    for name, data in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"other")):
        (tmp_path / name).write_bytes(data)
        config.attention.weights = str(tmp_path / name)
        found.append(inference.attention_settings(config)["attention.weights"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("encoder", "config", "counts"),
    [
        (rrdb_celeba, srdiff_celeba, (1_488_003, 10_545_795)),
        (rrdb_df2k, srdiff_df2k, (12_381_443, 12_934_915)),
    ],
)
def test_shipped_networks_have_the_published_sizes(encoder, config, counts):
    encoder, config = encoder.get_config(), config.get_config()
    config.model.encoder_features = encoder.model.features
    config.model.encoder_blocks = encoder.model.blocks

    def count(config):
        method = inference.method(config)
        shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), 8))
        return {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in shapes.items()}

    parts = count(config)
    assert sum(count(encoder).values()) == parts.pop("encoder") == counts[0]
    assert sum(parts.values()) == counts[1]


def test_a_setting_says_how_pictures_are_sampled():
    config = default.get_config()
    assert "2000 DDPM steps, lower bound 0.05" in build.setting(config)
    config.diffusion.update(sampler="ddim", sampling_steps=20, spacing="quadratic", eta=0.5)
    config.mask.truncate = 0.1
    said = build.setting(config)
    assert "20 quadratic DDIM (eta 0.5) steps" in said and "the first 0.1 of the pixels" in said
    config.diffusion.sampler = "multistep"
    assert "20 quadratic multistep steps" in build.setting(config)
