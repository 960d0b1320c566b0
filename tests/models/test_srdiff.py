"""The SRDiff network against the arrays of the public implementation, from LR picture to sample."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden.srdiff import GOLDEN, KEYS, load_golden, network, parameters, shapes_of
from reference import TOLERANCE, assert_near

from yoda_jax.diffusion.formulation import SRDIFF
from yoda_jax.diffusion.loss import masked_loss
from yoda_jax.diffusion.noising import add_noise, predict_y0
from yoda_jax.diffusion.sampler import sample, start_state
from yoda_jax.diffusion.schedule import cosine, noise_schedule
from yoda_jax.diffusion.steppers import ddpm
from yoda_jax.models import blocks
from yoda_jax.models.blocks import sinusoidal
from yoda_jax.models.srdiff import SRDiffUNet
from yoda_jax.weights.srdiff import reference_names, transposed

SCHEDULE = noise_schedule(cosine(100))


@pytest.fixture(scope="module")
def golden():
    return load_golden()


@pytest.fixture(scope="module")
def params():
    return parameters()


@pytest.fixture(scope="module")
def condition(golden, params):
    return made(params, golden["img_lr"], golden["img_lr_up"])


def made(params, lr, lr_up):
    return network().apply(
        {"params": params}, lr, lr_up, method=lambda m, lr, lr_up: m.condition(m.encode(lr), lr_up)
    )


@jax.jit
def denoise(params, z, level, condition):
    out, captured = network().apply(
        {"params": params},
        z,
        level,
        condition,
        capture_intermediates=lambda module, _: module.name == "level_dense2",
    )
    return out, captured["intermediates"]["level_dense2"]["__call__"][0]


def test_condition_embedding_and_output(golden, params, condition):
    assert_near(condition[:1], golden["cond_proj_out"])
    level = jnp.asarray(golden["t"], jnp.float32)
    assert_near(sinusoidal(level, 16, 1.0), golden["time_emb_sin"])
    eps, embedding = denoise(params, golden["x_t"], level, condition)
    assert_near(embedding, golden["time_emb"])
    assert_near(eps, golden["eps"])


def test_other_frequencies_of_the_step_are_noticed(golden, params, condition, monkeypatch):
    """Those of SR3, whose last is by an eighth of the exponents higher."""
    monkeypatch.setattr(blocks, "sinusoidal", lambda v, dim, last: sinusoidal(v, dim, 7 / 8))
    level = jnp.asarray(golden["t"], jnp.float32)
    eps = network().apply({"params": params}, golden["x_t"], level, condition)
    with pytest.raises(AssertionError, match="is off by"):
        assert_near(eps, golden["eps"])


def test_condition_is_a_matter_of_lr_alone_and_steps_never_see_the_encoder(
    golden, params, condition
):
    other = made(params, golden["img_lr"], -golden["img_lr_up"])
    np.testing.assert_array_equal(other, condition)
    # A step needs no parameter of what makes the condition.
    rest = {k: v for k, v in params.items() if k not in ("encoder", "projection")}
    level = jnp.asarray(golden["t"], jnp.float32)
    eps, _ = denoise(rest, golden["x_t"], level, condition)
    assert_near(eps, golden["eps"])


def test_the_formulation_is_the_references(golden):
    residual = SRDIFF.encode(golden["img_hr"], golden["img_lr_up"])
    assert_near(residual, golden["res_of_hr"], 1e-6)


@pytest.mark.parametrize("reference_t", [99, 50, 1, 0])
def test_posterior_steps_with_the_networks_noise(golden, params, condition, reference_t):
    z, t = golden["x_t"], jnp.full(2, reference_t + 1)
    eps, _ = denoise(params, z, SCHEDULE.index[t], condition)
    y0 = predict_y0(z, eps, SCHEDULE.signal[t], SCHEDULE.noise[t])
    found = ddpm(SCHEDULE, z, y0, golden[f"step/t{reference_t}/noise"], t)
    # At t = 99 the clean target is 2029 times a difference, of which the mean holds 1.5 %.
    tolerance = 5e-5 if reference_t == 99 else TOLERANCE
    assert_near(found, golden[f"step/t{reference_t}/x_prev"], tolerance)


@pytest.fixture(scope="module")
def losses(golden):
    """The losses of all penalties, and L1's gradient, from the LR picture on."""
    t = jnp.asarray(golden["t"]) + 1
    eps, mask = golden["loss/noise"], jnp.ones((2, 32, 32, 1), bool)
    z = add_noise(golden["res_of_hr"], eps, SCHEDULE.signal[t], SCHEDULE.noise[t])

    def loss(params):
        def run(m):
            made = m.condition(m.encode(golden["img_lr"]), golden["img_lr_up"])
            return m(z, SCHEDULE.index[t], made, train=True)

        found = nn.apply(run, network())({"params": params})
        values = {p: masked_loss(found, eps, mask, "pixels", p) for p in ("l1", "l2", "ssim")}
        return values["l1"].mean(), {p: value.mean() for p, value in values.items()}

    return jax.jit(jax.grad(loss, has_aux=True))


def test_losses_and_all_gradients(golden, params, losses):
    gradient, values = losses(params)
    for penalty, value in values.items():
        assert_near(value, golden[f"loss/{penalty}"], name=penalty)
    flat, compared = flatten_dict(gradient), []
    for path, name in reference_names(params).items():
        if path[0] == "encoder":  # it was trained before
            np.testing.assert_array_equal(flat[path], 0.0)
            continue
        assert_near(np.linalg.norm(flat[path]), golden[f"gradnorm/{name}"], 2e-5, name)
        compared.append(f"gradnorm/{name}")
        if f"grad/{name}" in golden:
            assert_near(flat[path], golden[f"grad/{name}"], 2e-5, name)
            compared.append(f"grad/{name}")
    assert set(compared) == {name for name in golden if name.startswith("grad")}


def test_ssim_of_pictures(golden):
    sr, hr = golden["img_lr_up"], golden["img_hr"]
    everywhere = jnp.ones((2, 32, 32, 1), bool)
    l1, both = (masked_loss(sr, hr, everywhere, "pixels", p).mean() for p in ("l1", "ssim"))
    assert_near(l1 + 1 - both, golden["ssim_loss_module"])


def test_ten_steps_are_the_references(golden, params, condition):
    schedule = noise_schedule(cosine(int(golden["loop/T"])))
    lr_up = golden["img_lr_up"][:1]
    base = SRDIFF.base(lr_up)
    # Its step t draws noise[t]; ours counts from 1. The start, at the base 0, is step T + 1.
    first = golden["loop/x_T"] / schedule.noise[-1]
    table = jnp.concatenate([jnp.zeros((1, *base.shape)), golden["loop/noise"], first[None]])
    start, _ = start_state(schedule, lambda t: table[t], base)
    assert_near(start, golden["loop/x_T"], 1e-6)

    @jax.jit
    def loop(condition):
        return sample(
            lambda z, t: denoise(params, z, schedule.index[t], condition)[0],
            schedule,
            lambda t: table[t],
            base,
            jnp.ones((1, 32, 32, 1)),
        )

    picture = SRDIFF.decode(loop(condition[:1]), lr_up)
    assert_near(picture, golden["loop/out"], 5e-5)  # ten networks one after another


RELEASES = {
    "srdiff_celeb8x": SRDiffUNet(
        features=64, multipliers=(1, 2, 2, 4), encoder_features=32, encoder_blocks=8, scale=8
    ),
    "srdiff_df2k4x_17x64": SRDiffUNet(),
}


@pytest.mark.parametrize(
    ("release", "unet", "rrdb"),
    [("srdiff_celeb8x", 10_545_795, 1_488_003), ("srdiff_df2k4x_17x64", 12_934_915, 12_381_443)],
)
def test_published_networks_have_the_published_entries(release, unet, rrdb):
    published = json.loads(KEYS.read_text())[release]
    shapes = shapes_of(RELEASES[release])
    flat, names = flatten_dict(shapes), reference_names(shapes)
    assert len(set(names.values())) == len(names)
    ours = {}
    for path, name in names.items():
        *window, before, after = (1, *flat[path].shape)
        order = [before, after] if transposed(path) else [after, before]
        ours[name] = [*order, *window[1:]] if path[-1] == "kernel" else [after]
    assert ours == published["entries"]
    inside = sum(s.size for path, s in flat.items() if path[0] == "encoder")
    assert (sum(s.size for s in flat.values()) - inside, inside) == (unet, rrdb)
    assert published["parameters"] == {"denoise_fn": unet, "rrdb": rrdb}


def test_bfloat16_computes_near_float32_and_returns_float32(golden, params, condition):
    level = jnp.asarray(golden["t"], jnp.float32)
    half = network(dtype=jnp.bfloat16)

    @partial(jax.jit, static_argnums=0)
    def run(net, params):
        def both(m):
            made = m.condition(m.encode(golden["img_lr"]), golden["img_lr_up"])
            return made, m(golden["x_t"], level, made)

        return nn.apply(both, net)({"params": params})

    made, out = run(half, params)
    assert made.dtype == jnp.bfloat16 and out.dtype == jnp.float32
    error = np.asarray(out) - golden["eps"]
    assert 1e-4 < np.sqrt((error**2).mean()) < 0.05 * np.abs(golden["eps"]).max()


def test_initial_kernels_fill_the_range_of_their_fan_in_and_biases_are_zero():
    net = network(features=8, multipliers=(1, 2))
    lr, lr_up = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 8, 8, 3))

    def run(m):
        return m(lr_up, jnp.ones(1), m.condition(m.encode(lr), lr_up))

    drawn = jax.jit(nn.init(run, net))(jax.random.key(1, impl="unsafe_rbg"))["params"]
    for path, value in flatten_dict(drawn).items():
        if path[-1] == "bias":
            assert not np.asarray(value).any()
            continue
        bound = 1 / np.sqrt(np.prod(value.shape[:-1]))
        top = np.abs(value).max()
        assert top <= bound * (1 + 1e-6), path
        # The chance that so many draws all stay below is under e ** -20 each.
        assert top > bound * (1 - 20 / value.size), path


def test_hyper_parameters_that_make_no_network_are_named():
    assert SRDiffUNet().problem() is None
    assert "17" in SRDiffUNet(encoder_blocks=16).problem()


def test_the_golden_file_is_the_one_of_the_recipe():
    with np.load(GOLDEN) as file:
        assert json.loads(str(file["config"]))["seed"] == 2345
