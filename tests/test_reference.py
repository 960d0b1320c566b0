"""The comparison with reference numbers lets rounding pass and stops what is wrong."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.recipe import recipe
from reference import TOLERANCE, assert_near

from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights.dino import from_reference, official_names


def test_differences_are_measured_by_the_largest_value():
    expected = np.array([1000.0, 1e-3, -2.0])
    assert_near(expected + 0.9 * TOLERANCE * 1000, expected)
    for wrong in (expected + 1.1 * TOLERANCE * 1000, expected * np.nan, expected[None]):
        with pytest.raises(AssertionError):
            assert_near(wrong, expected)


def test_zeros_are_met_exactly():
    assert_near(np.zeros(3), np.zeros(3))
    with pytest.raises(AssertionError, match=r"bias is off by 1\.0e-30"):
        assert_near(np.full(3, 1e-30), np.zeros(3), name="bias")


def test_other_positions_of_a_vision_transformer_are_noticed():
    """Those of Hugging Face's port, which differ by a tenth of a patch over the picture."""
    golden = np.load(Path(__file__).parent / "golden/dino_vit_tiny.npz")
    pictures = golden["48x48/x"].transpose(0, 2, 3, 1)
    entries = official_names(recipe(json.loads(str(golden["shapes"])), 3456, 1.3))
    for offset, right in ((0.1, True), (0.0, False)):
        network = VisionTransformer(8, features=64, depth=2, heads=4, grid=4, offset=offset)
        shapes = jax.eval_shape(network.init, jax.random.key(0), pictures)["params"]
        params = {"params": from_reference("it", entries, shapes)}
        maps = network.apply(params, pictures, method="class_attention")
        stopped = pytest.raises(AssertionError, match="is off by")
        with contextlib.nullcontext() if right else stopped:
            assert_near(maps, golden["48x48/head_maps"])
