"""The vision transformer against arrays of the public DINO code and against PyTorch's layers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from dino_entries import TINY_REGISTERS, dinov2_entries
from extras import needs_torch
from golden.recipe import recipe
from reference import assert_near

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
    assert_near(maps, GOLDEN[f"{size}/head_maps"])
    tokens = TINY.apply(params, pictures)
    assert_near(tokens, GOLDEN[f"{size}/tokens_final_norm"])


def test_a_head_at_a_time_equals_all_at_once():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, 3, 4)) for i in range(3))
    expected = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(_attend(q, k, v), expected, atol=1e-6)


def test_an_accelerator_computes_all_heads_at_once_in_float32_and_the_cpu_in_turn(params):
    """Lowered for each; the precision is that which the caller sets."""

    def maps(pictures):
        return TINY.apply(params, pictures, method="class_attention")

    with jax.default_matmul_precision("highest"):
        traced = jax.jit(maps).trace(np.ones((2, 32, 32, 3), "f"))
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    # 17 x 17 weights of 4 heads of 2 pictures, or of one of these at a time.
    assert "2x4x17x17xf32>" in texts["cuda"] and "while" not in texts["cuda"]
    assert "<17x17xf32>" in texts["cpu"] and "2x4x17x17xf32>" not in texts["cpu"]
    products = [line for line in texts["cuda"].splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line and "bf16" not in line for line in products)


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


@needs_torch
@pytest.mark.parametrize("new", [2, 7, 8, 11, 40])
def test_interpolation_is_that_of_pytorch(new):
    import torch

    rows = np.random.default_rng(0).normal(size=(3, 8)).astype("f")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rows)[None, None], size=(3, new), mode="bicubic"
    )
    found = rows @ interpolation_matrix(8, new, 0.0).T
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=2e-6)


@needs_torch
@pytest.mark.parametrize("shape", [(42, 42), (28, 28), (70, 98), (28, 56)])
def test_registers_are_tokens_that_no_map_shows(shape):
    """Written here with PyTorch's layers, after the description of the release."""
    import torch
    from torch.nn import functional

    entries = dinov2_entries(registers=4)
    w = {name: torch.from_numpy(value) for name, value in entries.items()}
    picture = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("f")

    def linear(name, x):
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return functional.layer_norm(x, (12,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    pixels = torch.from_numpy(picture).permute(0, 3, 1, 2)
    x = functional.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 14)
    rows, columns = x.shape[2:]
    places = w["pos_embed"][:, 1:].reshape(1, 3, 3, 12).permute(0, 3, 1, 2)
    places = functional.interpolate(places, (rows, columns), mode="bicubic", antialias=True)
    x = (x + places).flatten(2).transpose(1, 2)
    first = w["cls_token"] + w["pos_embed"][:, :1]
    x = torch.cat([first.expand(2, -1, -1), w["register_tokens"].expand(2, -1, -1), x], 1)
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = qkv.reshape(2, -1, 3, 2, 6).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 6**0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(2, -1, 12)
        x = x + w[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", y)
        y = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + w[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", y)
    maps, tokens = weights[:, :, 0, 5:].reshape(2, 2, rows, columns), norm("norm", x)

    known = {name: value for name, value in entries.items() if name != "mask_token"}
    shapes = shapes_of(TINY_REGISTERS, 42)["params"]
    params = {"params": from_reference("it", official_names(known), shapes)}
    found = TINY_REGISTERS.apply(params, picture, method="class_attention")
    np.testing.assert_allclose(found, maps.numpy(), atol=1e-5)
    np.testing.assert_allclose(TINY_REGISTERS.apply(params, picture), tokens.numpy(), atol=1e-4)
    assert weights[:, :, 0, 1:5].sum(-1).min() > 0.01  # else they would be easy to leave out


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
