"""The bottleneck ResNet against arrays of torchvision's, its parameter count and its shapes."""

import json
import re
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden.recipe import recipe
from reference import assert_near

from yoda_jax.models import resnet
from yoda_jax.models.resnet import BatchNorm, ResNet

GOLDEN = np.load(Path(__file__).parents[1] / "golden/resnet_bottleneck_tiny.npz")
TINY = ResNet(stem=16, planes=(8, 16, 16, 24), blocks=(2, 1, 2, 1))


def shapes_of(network):
    """{path: shape} of all variables, the collection's name first."""
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def from_torchvision(entries):
    """layer1.0.downsample.0.weight -> params/layer1_block0/downsample_conv/kernel, and so on."""
    tree = {}
    for name, value in entries.items():
        *layers, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if value.ndim == 4:
            leaf, value = "kernel", value.transpose(2, 3, 1, 0)
        else:
            leaf = {"weight": "scale", "running_mean": "mean", "running_var": "variance"}.get(
                leaf, leaf
            )
        path = re.sub(r"(layer\d)/", r"\1_block", "/".join(layers))
        path = path.replace("downsample/0", "downsample_conv").replace(
            "downsample/1", "downsample_bn"
        )
        tree["params", *path.split("/"), leaf] = value
    return tree


@pytest.fixture(scope="module")
def variables():
    tree = from_torchvision(recipe(json.loads(str(GOLDEN["shapes"])), 4567, 1.0))
    assert {path: value.shape for path, value in tree.items()} == shapes_of(TINY)
    return unflatten_dict(tree)


@pytest.mark.parametrize("size", ["64x64", "96x64"])
def test_equal_to_torchvision(size, variables):
    pictures = GOLDEN[f"{size}/x"].transpose(0, 2, 3, 1)
    features = jax.jit(TINY.apply)(variables, pictures)
    assert_near(features, GOLDEN[f"{size}/layer4"].transpose(0, 2, 3, 1))
    assert_near(features.mean((1, 2)), GOLDEN[f"{size}/pooled"])


def test_another_epsilon_of_the_norms_is_noticed(variables, monkeypatch):
    monkeypatch.setattr(resnet, "BatchNorm", partial(BatchNorm, epsilon=1e-4))
    features = jax.jit(TINY.apply)(variables, GOLDEN["64x64/x"].transpose(0, 2, 3, 1))
    with pytest.raises(AssertionError, match="is off by"):
        assert_near(features, GOLDEN["64x64/layer4"].transpose(0, 2, 3, 1))


def test_batch_norm_equals_the_library():
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (2, 3, 4, 5))
    scale, bias, mean, variance = (jax.random.uniform(key, (5,), minval=0.1) for key in keys[1:])
    affine, statistics = {"scale": scale, "bias": bias}, {"mean": mean, "var": variance}
    expected = nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(
        {"params": affine, "batch_stats": statistics}, x
    )
    ours = BatchNorm().apply({"params": {**affine, "mean": mean, "variance": variance}}, x)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_defaults_are_resnet_50():
    """23,508,032 learnable parameters and two statistics for each of 26,560 normalised channels."""
    shapes = shapes_of(ResNet())
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    statistics = [size for path, size in sizes.items() if path[-1] in ("mean", "variance")]
    assert {path[0] for path in shapes} == {"params"}
    assert len(sizes) == 318 - 53  # without torchvision's counters, one a normalisation
    assert sum(sizes.values()) - sum(statistics) == 23_508_032
    assert sum(statistics) == 2 * 26_560


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(50, 70, 2, 3), (16, 33, 1, 2), (1, 1, 1, 1), (65, 96, 3, 3)],
)
def test_features_cover_every_pixel_of_odd_sizes(height, width, rows, columns, variables):
    pictures = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    features = jax.eval_shape(TINY.apply, variables, pictures)
    assert features.shape == (1, rows, columns, 96)
