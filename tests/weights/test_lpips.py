"""The packaged LPIPS weights have the public ones' structure and heads."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.lpips import from_reference
from golden.recipe import recipe

from yoda_jax.weights.lpips import load_lpips_alex

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "lpips_alex.npz") as file:
        return dict(file)


@pytest.fixture
def entries(golden):
    """A state dict as the reference writes it, with the trunk drawn by the recipe."""
    config = json.loads(str(golden["config"]))
    keys = [(name, tuple(shape)) for name, shape in json.loads(str(golden["net_keys"]))]
    trunk = recipe(keys, config["seed"], config["gain"])
    return trunk | {k: v for k, v in golden.items() if k.startswith("lin")}


def test_packaged_heads_are_the_published_ones(golden):
    for k, head in enumerate(load_lpips_alex()["heads"]):
        np.testing.assert_array_equal(head, golden[f"lin{k}.model.1.weight"].ravel())


def test_packaged_weights_are_float32_with_the_reference_structure(entries):
    packaged, converted = load_lpips_alex(), from_reference(entries)
    assert jax.tree.structure(packaged) == jax.tree.structure(converted)
    assert jax.tree.map(jnp.shape, packaged) == jax.tree.map(jnp.shape, converted)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(packaged))
    # The reference's LPIPS(net="alex") with its heads has this many parameters.
    assert sum(leaf.size for leaf in jax.tree.leaves(packaged)) == 2_470_848


def test_packaged_filters_of_the_first_layer_are_those_of_a_trained_network():
    """Trained filters are smooth: neighbouring taps agree, those of a random draw do not."""
    kernel = np.asarray(load_lpips_alex()["convs"][0]["kernel"])
    left, right = kernel[:, :-1].ravel(), kernel[:, 1:].ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.5
