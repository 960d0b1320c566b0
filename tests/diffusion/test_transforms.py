"""Every public function of the method runs under jit, vmap and pmap and in bfloat16."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import yoda_jax.diffusion
from yoda_jax.diffusion import loss, mask, noising, sampler, schedule, steppers, tiles, times
from yoda_jax.diffusion.formulation import FORMULATIONS

STEPS = 4
BETAS = schedule.linear(STEPS, 1e-3, 0.5)
SCHEDULE = schedule.noise_schedule(BETAS)
LEVEL = jnp.array([0.8, 0.6], jnp.float32)
T = jnp.array([2, 3])
# The default generator takes ten times as long to compile.
TILES = tiles.cut(2, (4, 4), (3, 3), 1)
TRUNCATED = mask.Mask(0.1, truncate=0.3)
KEY = jax.random.key(3, impl="unsafe_rbg")


def batch(seed):
    """A fixed batch of two pictures, as `x` in the table is."""
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)


def attention(x):
    """Attention of x's type half-way between the times of two steps, where no rounding matters."""
    return ((jnp.floor(jnp.abs(x[..., :1]) * STEPS) + 0.5) / STEPS).astype(x.dtype)


def inside(x):
    return mask.area_mask(mask.diffused_steps(attention(x), 0.0, STEPS), T)


def denoise(z, t):
    return 0.5 * z


def noise(t):
    """The samplers take any noise of a step; this one is quick to compile."""
    return jnp.asarray(np.random.default_rng(2).standard_normal((6, 2, 4, 4, 3), np.float32))[t]


def stepped(x):
    """What a stepper takes."""
    return SCHEDULE, x, 0.5 * x, batch(1), T, steppers.History(batch(2), inside(x))


def of_host(values):
    """Host-side functions take python numbers; their result is used on an array."""
    return lambda x: x * np.float32(sum(values()))


# Public function -> a function of a batch of pictures x that calls it.
CALLS = {
    "schedule.linear": of_host(lambda: schedule.linear(4, 1e-3, 0.5)),
    "schedule.quadratic": of_host(lambda: schedule.quadratic(4, 1e-3, 0.5)),
    "schedule.warmup": of_host(lambda: schedule.warmup(4, 1e-3, 0.5, 0.5)),
    "schedule.constant": of_host(lambda: schedule.constant(4, 1e-3, 0.5)),
    "schedule.cosine": of_host(lambda: schedule.cosine(4)),
    "schedule.gammas": of_host(lambda: schedule.gammas(BETAS)),
    "schedule.noise_schedule": lambda x: x * schedule.noise_schedule(BETAS, 2).signal[1],
    "mask.area_mask": inside,
    "mask.diffused_steps": lambda x: mask.diffused_steps(attention(x), 0.1, 5),
    "mask.sampling_steps": lambda x: mask.sampling_steps(attention(x), TRUNCATED, SCHEDULE),
    "mask.diffused_fraction": lambda x: mask.diffused_fraction(attention(x), 0.1),
    "noising.add_noise": lambda x: noising.add_noise(x, batch(1), LEVEL, 1 - LEVEL),
    "noising.predict_y0": lambda x: noising.predict_y0(x, 0.1 * batch(1), LEVEL, 1 - LEVEL),
    "noising.per_picture": lambda x: noising.per_picture(x[:, 0, 0, 0]),
    "noising.blend": lambda x: noising.blend(inside(x), x, -x),
    "loss.masked_loss": lambda x: [
        loss.masked_loss(x, batch(1), inside(x), norm, penalty)
        for norm, penalty in (("pixels", "l1"), ("area", "l2"), ("pixels", "ssim"))
    ],
    "times.draw_level": lambda x: x[0, 0, 0, 0] * times.draw_level(KEY, SCHEDULE, 5, True)[1],
    "loss.training_loss": lambda x: loss.training_loss(
        lambda z, level: level[:, None, None, None] * z,
        KEY,
        SCHEDULE,
        FORMULATIONS["sr3"],
        x,
        -x,
        attention(x),
        mask.Mask(0.05, "area", "area", "lr", "masked"),
    ),
    "sampler.frame_noise": lambda x: x * sampler.frame_noise(KEY[None], (4, 4, 3))(jnp.int32(2)),
    "sampler.start_state": lambda x: sampler.start_state(SCHEDULE, noise, x),
    "sampler.reverse_steps": lambda x: sampler.reverse_steps(
        denoise, SCHEDULE, noise, x, attention(x), (x, x), jnp.array([3, 2]), mask=mask.Mask()
    ),
    "sampler.sample": lambda x: sampler.sample(
        denoise, SCHEDULE, noise, x, attention(x), mask=mask.Mask(lower_bound=0.0)
    ),
    "sampler.noised": lambda x: sampler.noised(SCHEDULE, noise, x, jnp.int32(3)),
    "sampler.seen": lambda x: sampler.seen(
        mask.Mask(network_input="masked"), inside(x) * STEPS, x, jnp.int32(2)
    ),
    "sampler.reverse_step": lambda x: sampler.reverse_step(
        SCHEDULE, noise, x, inside(x) * STEPS, (x, x), 0.5 * x, jnp.int32(2)
    ),
    "tiles.cut": of_host(lambda: TILES.cores.ravel()),
    "tiles.plan": of_host(
        lambda: tiles.plan(TILES, np.full((2, 4, 4, 1), 3, np.int32), 4, True).steps
    ),
    "tiles.take": lambda x: tiles.take(x, TILES.corners, TILES.size),
    "tiles.put": lambda x: tiles.put(
        x, tiles.take(-x, TILES.corners, TILES.size), TILES.corners, TILES.cores, TILES.ramps
    ),
    "steppers.stepper": lambda x: steppers.stepper("ddim", 0.5)(*stepped(x)),
    **{
        f"steppers.{step.__name__}": lambda x, step=step: step(*stepped(x))
        for step in (steppers.ddpm, steppers.ddpm_beta, steppers.ddim, steppers.multistep)
    },
    **{
        f"formulation.{name}": lambda x, f=formulation: [
            f.encode(x, batch(1).astype(x.dtype)),
            f.base(x),
            f.decode(x, x),
        ]
        for name, formulation in FORMULATIONS.items()
    },
}

# A bfloat16 result is rounded to 8 bits, once if compiled, after every operation if not.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


def test_no_public_function_is_forgotten():
    public = {f"formulation.{name}" for name in FORMULATIONS}
    for module in pkgutil.iter_modules(yoda_jax.diffusion.__path__):
        full = f"yoda_jax.diffusion.{module.name}"
        for name, value in vars(importlib.import_module(full)).items():
            own = inspect.isfunction(value) and value.__module__ == full
            if own and not name.startswith("_"):
                public.add(f"{module.name}.{name}")
    assert public == set(CALLS)


@pytest.fixture(scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", params=TOLERANCE)
def results(request, quick_compilation):
    """All results by transformation; one compiled program serves all functions of the table."""

    def everything(x):
        return {name: call(x) for name, call in CALLS.items()}

    xs = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 2, 4, 4, 3)), request.param)
    assert jax.device_count() == 8
    compiled = jax.jit(everything)
    found = {
        "direct": [everything(xs[0])],
        "jit": [compiled(x) for x in xs],
        "vmap": jax.jit(jax.vmap(everything))(xs),
        "pmap": jax.pmap(everything)(xs),
    }
    for name in ("vmap", "pmap"):
        host = jax.device_get(found[name])
        found[name] = [jax.tree.map(lambda leaf, i=i: leaf[i], host) for i in range(8)]
    return request.param, found


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("transformed", "reference"), [("jit", "direct"), ("vmap", "jit"), ("pmap", "jit")]
)
def test_transformed_function_agrees(results, transformed, reference, name):
    dtype, found = results
    tolerance = TOLERANCE[dtype]
    for one, other in zip(found[transformed], found[reference], strict=False):
        for a, b in zip(jax.tree.leaves(one[name]), jax.tree.leaves(other[name]), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert np.isfinite(a).all()
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_state_and_losses_stay_float32_for_bfloat16_pictures():
    x = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.bfloat16)
    for name in (
        "mask.diffused_fraction",
        "noising.add_noise",
        "noising.predict_y0",
        "steppers.stepper",
        "loss.masked_loss",
        "loss.training_loss",
        "sampler.start_state",
        "sampler.noised",
        "sampler.reverse_steps",
        "sampler.sample",
    ):
        for leaf in jax.tree.leaves(jax.eval_shape(CALLS[name], x)):
            assert leaf.dtype == jnp.float32, name


@pytest.mark.parametrize("drawn_by", ["uniform", "area"])
def test_draws_are_the_same_where_jax_computes_in_64_bits(drawn_by):
    """As users of the functions alone may have set it up."""

    def everything():
        x, (key, *keys) = batch(0).astype(jnp.float32), jax.random.split(jax.random.key(3), 3)
        masked, frame = mask.Mask(times=drawn_by), sampler.frame_noise(jnp.stack(keys), (4, 4, 3))
        steps = mask.diffused_steps(attention(x), 0.05, STEPS) if drawn_by == "area" else None
        return [
            frame(jnp.int32(2)),
            times.draw_level(key, SCHEDULE, 2, True, steps),
            loss.training_loss(
                denoise, key, SCHEDULE, FORMULATIONS["sr3"], x, -x, attention(x), masked
            ),
            sampler.sample(denoise, SCHEDULE, frame, x, attention(x), mask=masked),
        ]

    expected = everything()
    with jax.enable_x64(True):
        found = everything()
    for wide, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert wide.dtype == plain.dtype
        np.testing.assert_array_equal(wide, plain)
