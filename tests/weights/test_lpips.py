"""The packaged LPIPS weights and the strict reading of the reference's state dict."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.recipe import recipe

from yoda_jax.errors import UserError
from yoda_jax.weights.lpips import from_reference, load_lpips_alex

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


def test_kernels_are_transposed_and_heads_flattened(entries):
    params = from_reference(entries)
    weight = entries["net.slice2.3.weight"]
    assert params["convs"][1]["kernel"][3, 4, 5, 6] == weight[6, 5, 3, 4]
    np.testing.assert_array_equal(params["convs"][1]["bias"], entries["net.slice2.3.bias"])
    assert params["heads"][2][7] == entries["lin2.model.1.weight"][0, 7, 0, 0]


def test_a_whole_state_dict_with_its_repeated_entries_is_read(entries):
    whole = entries | {
        "scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32),
        "scaling_layer.scale": np.ones((1, 3, 1, 1), np.float32),
        **{f"lins.{k}.model.1.weight": entries[f"lin{k}.model.1.weight"] for k in range(5)},
    }
    jax.tree.map(np.testing.assert_array_equal, from_reference(whole), from_reference(entries))


def test_every_kind_of_fault_is_named(entries):
    del entries["net.slice3.6.bias"]
    entries["fc.weight"] = np.zeros((1000, 256), np.float32)
    entries["net.slice1.0.weight"] = entries["net.slice1.0.weight"].transpose(2, 3, 1, 0)
    with pytest.raises(UserError) as error:
        from_reference(entries)
    assert "net.slice3.6.bias missing" in str(error.value)
    assert "fc.weight unknown" in str(error.value)
    expected = "net.slice1.0.weight of shape (11, 11, 3, 64) instead of (64, 3, 11, 11)"
    assert expected in str(error.value)


def test_only_five_faults_are_named(entries):
    vgg = {f"net.slice{k}.{k}.weight": np.zeros((3, 3)) for k in range(7)}
    with pytest.raises(UserError) as error:
        from_reference(vgg)
    assert str(error.value).count("missing") == 5
    assert "and 17 more" in str(error.value)
    assert "\n" not in str(error.value)
