"""LPIPS against the reference implementation, and as a distance on real photographs."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.lpips import from_reference
from golden.recipe import recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_near
from skimage import data, filters, transform

from yoda_jax.errors import UserError
from yoda_jax.evaluation import perceptual
from yoda_jax.evaluation.perceptual import layer_distance, lpips
from yoda_jax.weights.lpips import load_lpips_alex

GOLDEN = Path(__file__).parents[1] / "golden"
PARAMS = load_lpips_alex()
lpips_jit = jax.jit(lpips)
lpips_grad = jax.jit(jax.value_and_grad(lambda p, x, y: lpips(p, x, y).sum(), argnums=(1, 2)))


def reference_run(net, weights_dtype):
    """Arrays of the reference's run: pictures (B, H, W, 3), trunk by name, heads, results."""
    with np.load(GOLDEN / f"lpips_{net}.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays["config"]))
    keys = [(name, tuple(shape)) for name, shape in json.loads(str(arrays["net_keys"]))]
    trunk = recipe(keys, config["seed"], config["gain"])
    trunk = {k: v.astype(weights_dtype).astype(np.float32) for k, v in trunk.items()}
    images = [jnp.asarray(arrays[k].transpose(0, 2, 3, 1)) for k in ("img0", "img1")]
    return arrays, images, trunk


def photo(name, size=64):
    """A real photograph, its middle square, (size, size, 3) in [-1, 1]."""
    picture = getattr(data, name)()[..., :3]
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    resized = transform.resize(square, (size, size), anti_aliasing=True)
    return (2 * resized - 1).astype(np.float32)


def blurred(picture, sigma):
    return filters.gaussian(picture, sigma, channel_axis=-1, preserve_range=True)


@partial(jax.jit, static_argnums=0)
def layers(trunk, weights, heads, image0, image1):
    """Mean features of image0, and the distances of a pair per layer and in all."""
    features = trunk(weights, image0), trunk(weights, image1)
    per_layer = [layer_distance(*layer) for layer in zip(*features, heads, strict=True)]
    return [f.mean((1, 2)) for f in features[0]], per_layer, sum(per_layer)


def test_alex_equals_the_reference():
    arrays, images, trunk = reference_run("alex", np.float16)
    params = from_reference(trunk | {k: v for k, v in arrays.items() if k.startswith("lin")})
    means, per_layer, _ = layers(
        perceptual.alex_features, params["convs"], params["heads"], *images
    )
    for k, mean in enumerate(means):
        assert_near(mean, arrays[f"feat{k}_mean"])
    assert_near(per_layer, arrays["per_layer"])
    assert_near(lpips_jit(params, *images), arrays["lpips"])


def squeeze_features(trunk, image):
    """The seven activations of torchvision's squeezenet1_1, tapped as in the reference."""

    def conv(x, name, **options):
        kernel = trunk[f"net.{name}.weight"].transpose(2, 3, 1, 0)
        return jax.nn.relu(perceptual.conv2d(x, kernel, trunk[f"net.{name}.bias"], **options))

    def fire(x, name):
        x = conv(x, f"{name}.squeeze")
        branches = conv(x, f"{name}.expand1x1"), conv(x, f"{name}.expand3x3", padding=1)
        return jnp.concatenate(branches, axis=-1)

    features = [conv(perceptual.scale_input(image), "slice1.0", stride=2)]
    slices = (("slice2.3", "slice2.4"), ("slice3.6", "slice3.7"), ("slice4.9",))
    for names in (*slices, ("slice5.10",), ("slice6.11",), ("slice7.12",)):
        x = perceptual.max_pool(features[-1]) if names in slices else features[-1]
        for name in names:
            x = fire(x, name)
        features.append(x)
    return features


def test_the_distance_of_another_trunk_equals_the_reference():
    arrays, images, trunk = reference_run("squeeze", np.float32)
    heads = [arrays[f"lin{k}.model.1.weight"].ravel() for k in range(7)]
    _, per_layer, total = layers(squeeze_features, trunk, heads, *images)
    assert_near(per_layer, arrays["per_layer"])
    assert_near(total, arrays["lpips"])


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_more_noise_or_blur_is_farther_away(name):
    clean = photo(name)
    noise = np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    noisy = [np.clip(clean + s * noise, -1, 1) for s in (0, 0.02, 0.05, 0.1, 0.2, 0.4)]
    soft = [clean] + [blurred(clean, s) for s in (0.5, 1, 2, 4, 8)]
    for ladder in (noisy, soft):
        degraded = jnp.asarray(np.stack(ladder), jnp.float32)
        found = lpips_jit(PARAMS, degraded, jnp.broadcast_to(clean, degraded.shape))
        assert found[0] == 0
        assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_blur_is_farther_than_a_shift_of_larger_squared_error(name):
    """What trained features see and the squared error does not."""
    picture = photo(name, 80)
    inner, shifted = picture[8:-8, 8:-8], picture[8:-8, 7:-9]
    soft = blurred(picture, 1)[8:-8, 8:-8].astype(np.float32)
    assert ((shifted - inner) ** 2).mean() > ((soft - inner) ** 2).mean()
    to_shift, to_soft = lpips_jit(PARAMS, np.stack([shifted, soft]), np.stack([inner, inner]))
    assert to_soft > 2 * to_shift


def test_symmetric_and_the_same_under_vmap():
    x = np.stack([photo("coffee"), photo("chelsea")])
    y = np.stack([photo("rocket"), photo("coffee")])
    expected = lpips_jit(PARAMS, x, y)
    np.testing.assert_allclose(lpips_jit(PARAMS, y, x), expected, rtol=1e-5)
    mapped = jax.jit(jax.vmap(lpips, (None, 0, 0)))(PARAMS, x[:, None], y[:, None])
    np.testing.assert_allclose(mapped[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("constant", [-1.0, 0.0, 1.0])
def test_gradient_is_finite_with_constant_regions(constant):
    x, y = photo("astronaut")[None], photo("coffee")[None].copy()
    y[:, 16:] = constant
    value, gradients = lpips_grad(PARAMS, x, y)
    assert value > 0
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


@pytest.mark.parametrize("picture", [photo("rocket"), np.zeros((64, 64, 3), np.float32)])
def test_equal_pictures_have_distance_and_gradient_zero(picture):
    value, gradients = lpips_grad(PARAMS, picture[None], picture[None])
    assert value == 0
    assert all(np.all(g == 0) for g in gradients)


def test_gradient_is_the_slope():
    x, y = photo("coffee")[None], photo("chelsea")[None]
    _, (gradient, _) = lpips_grad(PARAMS, x, y)
    step = 0.01 * gradient / jnp.linalg.norm(gradient)
    rise = lpips_grad(PARAMS, x + step, y)[0] - lpips_grad(PARAMS, x - step, y)[0]
    np.testing.assert_allclose(rise, 2 * (gradient * step).sum(), rtol=0.02)


def test_gradient_is_finite_where_all_features_are_zero():
    zero, one = jnp.zeros((1, 2, 2, 4)), jnp.ones((1, 2, 2, 4))
    slope = jax.grad(lambda f0, f1: layer_distance(f0, f1, jnp.ones(4)).sum(), argnums=(0, 1))
    for pair in ((zero, one), (one, zero), (zero, zero)):
        assert all(np.isfinite(g).all() for g in slope(*pair))
    x, y = photo("coffee")[None], photo("chelsea")[None]
    dead = [conv | {"bias": conv["bias"] - 1e3} for conv in PARAMS["convs"]]
    value, gradients = lpips_grad(PARAMS | {"convs": dead}, x, y)
    assert value == 0
    assert all(np.all(g == 0) for g in gradients)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_distance_ignores_the_scale_of_features_and_is_bounded(seed, scale0, scale1):
    f0, f1 = np.random.default_rng(seed).exponential(size=(2, 1, 3, 3, 8)).astype(np.float32)
    head = np.ones(8, np.float32)
    found = layer_distance(f0, f1, head)
    scaled = layer_distance(f0 * np.float32(scale0), f1 * np.float32(scale1), head)
    np.testing.assert_allclose(scaled, found, rtol=1e-4)
    # Two unit vectors without negative entries are at most sqrt(2) apart.
    assert 0 <= found[0] <= 2


@pytest.mark.parametrize(
    ("shape0", "shape1", "dtype"),
    [
        ((1, 31, 64, 3), (1, 31, 64, 3), np.float32),
        ((1, 64, 31, 3), (1, 64, 31, 3), np.float32),
        ((1, 64, 64, 3), (2, 64, 64, 3), np.float32),
        ((1, 64, 64, 1), (1, 64, 64, 1), np.float32),
        ((64, 64, 3), (64, 64, 3), np.float32),
        ((1, 64, 64, 3), (1, 64, 64, 3), np.uint8),
    ],
)
def test_wrong_pictures_are_refused_and_the_smallest_taken(shape0, shape1, dtype):
    with pytest.raises(UserError, match="at least 32"):
        lpips_jit(PARAMS, np.zeros(shape0, dtype), np.zeros(shape1, dtype))
    smallest = photo("coffee", 32)[None]
    assert lpips_jit(PARAMS, smallest, -smallest)[0] > 0
