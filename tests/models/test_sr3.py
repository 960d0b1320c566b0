"""The SR3 network against the arrays of the public implementation, layer by layer."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from golden.sr3 import GOLDEN, KEYS, load_golden, network, parameters
from reference import assert_near

from yoda_jax.diffusion.loss import masked_loss
from yoda_jax.diffusion.noising import add_noise
from yoda_jax.models import sr3
from yoda_jax.models.blocks import GroupNorm
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.weights.sr3 import reference_names


@pytest.fixture(scope="module")
def golden():
    return load_golden()


@pytest.fixture(scope="module")
def params():
    return parameters()


def forward(network, params, lr_up, z, level, **kwargs):
    return network.apply(
        {"params": params},
        z,
        level,
        method=lambda m, z, level: m(z, level, m.condition(z, lr_up)),
        **kwargs,
    )


def test_output_and_every_stored_activation(golden, params):
    z, lr_up, level = golden["x_noisy"], golden["cond"], jnp.asarray(golden["noise_level"][:, 0])
    out, captured = jax.jit(
        lambda p: forward(network(), p, lr_up, z, level, capture_intermediates=True)
    )(params)
    assert_near(out, golden["out"])
    inside = {k: v["__call__"][0] for k, v in captured["intermediates"].items() if k != "__call__"}
    for ours, theirs in {
        "down0_block0": "downs.1",
        "down0_conv": "downs.2",
        "mid_block0_attention": "mid.0",
        "mid_block1": "mid.1",
        "up2_block0_attention": "ups.0",
    }.items():
        assert_near(inside[ours][:1], golden[f"act/{theirs}"], name=ours)
    assert_near(inside["level_dense2"], golden["act/noise_emb"][:, 0])


def test_another_epsilon_of_the_norms_is_noticed(golden, params, monkeypatch):
    monkeypatch.setattr(sr3, "GroupNorm", partial(GroupNorm, epsilon=1e-4))
    level = jnp.asarray(golden["noise_level"][:, 0])
    out = jax.jit(lambda p: forward(network(), p, golden["cond"], golden["x_noisy"], level))(params)
    with pytest.raises(AssertionError, match="is off by"):
        assert_near(out, golden["out"])


def test_stem_is_the_first_convolution_taken_apart(golden, params):
    def first(m, z, lr_up):
        return m.stem.of_state(z) + m.condition(z, lr_up)

    out = network().apply({"params": params}, golden["x_noisy"], golden["cond"], method=first)
    assert_near(out[:1], golden["act/downs.0"])


@pytest.fixture(scope="module")
def loss_and_gradient(golden, params):
    signal = jnp.asarray(golden["loss/sqrt_gamma"])
    noise = jnp.sqrt(1 - signal**2)
    eps = golden["loss/noise"]
    z = add_noise(golden["loss/HR"], eps, signal, noise)

    def loss(p):
        mask = jnp.ones((*eps.shape[:3], 1), bool)
        return masked_loss(forward(network(), p, golden["cond"], z, signal), eps, mask).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def test_loss_and_all_gradients(golden, params, loss_and_gradient):
    loss, gradient = loss_and_gradient
    assert_near(loss, golden["loss/l_pix"])
    flat = flatten_dict(gradient)
    for path, name in reference_names(network(), params).items():
        assert_near(np.linalg.norm(flat[path]), golden[f"gradnorm/{name}"], 2e-5, name)
        if f"grad/{name}" in golden:
            assert_near(flat[path], golden[f"grad/{name}"], 2e-5, name)


def test_one_adam_step(golden, params, loss_and_gradient):
    optimizer = optax.adam(1e-4)

    @jax.jit
    def step(gradient):
        updates, _ = optimizer.update(gradient, optimizer.init(params))
        return optax.apply_updates(params, updates)

    stepped = flatten_dict(step(loss_and_gradient[1]))
    compared = 0
    for path, name in reference_names(network(), params).items():
        if f"adam1/{name}" in golden:
            assert_near(stepped[path], golden[f"adam1/{name}"], name=name)
            compared += 1
    assert compared == 6


@pytest.mark.parametrize(
    ("release", "sizes"),
    [
        ("sr3_16_128", dict(multipliers=(1, 2, 4, 8, 8), blocks=2, attention_resolutions=(16,))),
        ("sr3_64_512", dict(multipliers=(1, 2, 4, 8, 16), blocks=1, attention_resolutions=())),
    ],
)
def test_published_networks_have_the_published_entries(release, sizes):
    published = json.loads(KEYS.read_text())[release]
    net = SR3UNet(features=64, image_size=int(release.split("_")[-1]), groups=16, **sizes)
    x = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(
        lambda: net.init(
            jax.random.key(0),
            x,
            jnp.ones(1),
            method=lambda m, z, level: m(z, level, m.condition(z, z)),
        )["params"]
    )
    flat = flatten_dict(shapes)
    assert sum(s.size for s in flat.values()) == published["parameters"]
    for path, name in reference_names(net, shapes).items():
        assert sorted(flat[path].shape) == sorted(published["entries"][name])
    assert list(reference_names(net, shapes).values()) == list(published["entries"])


def test_initial_weights_are_orthogonal_and_biases_zero():
    net = SR3UNet(features=8, multipliers=(1, 2), blocks=1, groups=4, image_size=16)
    x = jnp.zeros((1, 16, 16, 3))
    params = jax.jit(
        lambda: net.init(
            jax.random.key(1),
            x,
            jnp.ones(1),
            method=lambda m, z, level: m(z, level, m.condition(z, z)),
        )["params"]
    )()
    for path, value in flatten_dict(params).items():
        if path[-1] == "kernel":
            rows = np.asarray(value).reshape(-1, value.shape[-1]).T  # (out, in * kh * kw)
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5, err_msg=str(path))
        else:
            assert (np.asarray(value) == (1 if path[-1] == "scale" else 0)).all()


def test_bfloat16_computes_near_float32_and_returns_float32(golden, params):
    level = jnp.asarray(golden["noise_level"][:, 0])
    net = network(dtype=jnp.bfloat16)
    out = jax.jit(lambda p: forward(net, p, golden["cond"], golden["x_noisy"], level))(params)
    assert out.dtype == jnp.float32
    error = np.asarray(out) - golden["out"]
    assert 1e-4 < np.sqrt((error**2).mean()) < 0.05 * np.abs(golden["out"]).max()


def test_dropout_acts_in_training_alone(golden, params):
    net, level = network(dropout=0.5), jnp.asarray(golden["noise_level"][:, 0])

    @partial(jax.jit, static_argnums=0)
    def run(train, seed):
        return net.apply(
            {"params": params},
            golden["x_noisy"],
            level,
            rngs={"dropout": jax.random.key(seed)},
            method=lambda m, z, level: m(z, level, m.condition(z, golden["cond"]), train),
        )

    assert_near(run(False, 0), golden["out"])
    assert np.abs(run(True, 0) - run(True, 1)).max() > 0.01


def test_the_golden_file_is_the_one_of_the_recipe():
    assert json.loads(str(np.load(GOLDEN)["config"]))["seed"] == 1234
