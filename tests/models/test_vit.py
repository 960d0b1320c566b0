"""The vision transformer against arrays of the public DINO code, and its shapes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.recipe import recipe

from yoda_jax.models.vit import VisionTransformer, _attend, interpolation_matrix
from yoda_jax.weights.dino import from_reference, official_names

GOLDEN = np.load(Path(__file__).parents[1] / "golden/dino_vit_tiny.npz")
TINY = VisionTransformer(patch=8, features=64, depth=2, heads=4, grid=4)


def shapes_of(network, side):
    return jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, side, side, 3), "f"))


@pytest.fixture(scope="module")
def params():
    entries = recipe(json.loads(str(GOLDEN["shapes"])), 3456, 1.3)
    return {"params": from_reference("it", official_names(entries), shapes_of(TINY, 32)["params"])}


@pytest.mark.parametrize("size", ["32x32", "48x48", "40x56"])
def test_equal_to_the_public_code_at_trained_larger_and_oblong_sizes(size, params):
    pictures = GOLDEN[f"{size}/x"].transpose(0, 2, 3, 1)
    maps = TINY.apply(params, pictures, method="class_attention")
    np.testing.assert_allclose(maps, GOLDEN[f"{size}/head_maps"], atol=1e-5)
    tokens = TINY.apply(params, pictures)
    np.testing.assert_allclose(tokens, GOLDEN[f"{size}/tokens_final_norm"], atol=1e-4)


@pytest.mark.parametrize("by_picture", [True, False])
def test_a_head_at_a_time_equals_all_at_once(by_picture):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, 3, 4)) for i in range(3))
    expected = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(_attend(q, k, v, by_picture), expected, atol=1e-6)


def test_interpolation_to_the_same_size_without_offset_changes_nothing():
    np.testing.assert_allclose(interpolation_matrix(5, 5, 0.0), np.eye(5), atol=1e-7)


@pytest.mark.parametrize("new", [3, 7, 40])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_interpolation_keeps_a_constant_and_inside_a_ramp(new, offset):
    matrix = interpolation_matrix(8, new, offset)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    places = (np.arange(new) + 0.5) * 8 / (new + offset) - 0.5
    # Where no tap is clipped, Keys's kernel of any a is symmetric about the place; a = -.75 errs by
    # (a + .5) (1 - 2 f) f (1 - f) on a ramp, for f the place's fraction.
    f = places % 1
    inside = (places >= 1) & (places < 6)
    found = (matrix @ np.arange(8))[inside]
    assert inside.any()
    np.testing.assert_allclose(
        found, (places + 2 * (-0.75 + 0.5) * f * (1 - f) * (2 * f - 1))[inside], atol=1e-5
    )


def test_oblong_picture_of_as_many_patches_uses_other_positions(params):
    """The public code interpolates it; taking the positions as they lie would mix up the rows."""
    ones = np.ones((1, 16, 64, 3), "f")
    square = TINY.apply(params, np.ones((1, 32, 32, 3), "f"), method="class_attention")
    oblong = TINY.apply(params, ones, method="class_attention")
    assert oblong.shape == (1, 4, 2, 8)
    assert np.abs(square.reshape(1, 4, -1) - oblong.reshape(1, 4, -1)).max() > 1e-3


def test_class_attention_is_a_distribution_less_the_class_token_itself(params):
    maps = np.asarray(TINY.apply(params, np.zeros((2, 32, 32, 3), "f"), method="class_attention"))
    sums = maps.sum((2, 3))
    assert maps.min() >= 0 and (sums < 1).all() and (sums > 0.5).all()
