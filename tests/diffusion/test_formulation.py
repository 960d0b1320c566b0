"""What is diffused: golden residuals of SRDiff, and the identities both formulations keep."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_near

from yoda_jax.diffusion.formulation import FORMULATIONS, SR3, SRDIFF
from yoda_jax.diffusion.noising import predict_y0
from yoda_jax.diffusion.schedule import cosine, noise_schedule
from yoda_jax.diffusion.steppers import ddpm


@pytest.fixture(scope="module")
def golden():
    """Crops of the SRDiff reference's pictures, (B, H, W, C)."""
    with np.load(Path(__file__).parents[1] / "golden" / "srdiff_formulation.npz") as file:
        return {key: jnp.asarray(value) for key, value in file.items()}


def test_srdiff_encodes_and_decodes_as_the_reference(golden):
    lr_up = golden["img_lr_up"]
    residual = SRDIFF.encode(golden["img_hr"], lr_up)
    assert_near(residual, golden["res_of_hr"], 1e-6)
    assert 0.05 < (np.abs(residual) == 1).mean() < 0.9  # the clip is part of it
    decoded = SRDIFF.decode(golden["x_t"], lr_up)
    assert_near(decoded, golden["img_of_res"], 1e-6)
    np.testing.assert_array_equal(SRDIFF.base(lr_up), 0.0)


@pytest.mark.parametrize("reference_t", [99, 50, 1, 0])
def test_srdiff_reverse_step_is_the_references(golden, reference_t):
    schedule, t = noise_schedule(cosine(100)), reference_t + 1
    z = golden["x_t"]
    x0, noise, x_prev = (golden[f"step/t{reference_t}/{k}"] for k in ("x0", "noise", "x_prev"))
    eps = (z - schedule.signal[t] * x0) / schedule.noise[t]  # the noise that implies that target
    t = jnp.full(len(z), t)
    y0 = predict_y0(z, eps, schedule.signal[t], schedule.noise[t])
    found = ddpm(schedule, z, y0, noise, t)
    assert_near(found, x_prev, 1e-6)


def test_sr3_diffuses_the_picture_itself(golden):
    hr, lr_up = golden["img_hr"], golden["img_lr_up"]
    np.testing.assert_array_equal(SR3.encode(hr, lr_up), hr)
    np.testing.assert_array_equal(SR3.base(lr_up), lr_up)
    np.testing.assert_array_equal(SR3.decode(hr, lr_up), hr)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_decoding_inverts_encoding_within_the_clip_and_the_base_is_the_upsampled_picture(
    golden, name
):
    formulation, lr_up = FORMULATIONS[name], golden["img_lr_up"]
    detail = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, lr_up.shape), jnp.float32)
    y0 = formulation.encode(lr_up + detail, lr_up)
    np.testing.assert_allclose(formulation.decode(y0, lr_up), lr_up + detail, atol=1e-6)
    np.testing.assert_array_equal(formulation.decode(formulation.base(lr_up), lr_up), lr_up)


def test_srdiff_detail_beyond_half_the_range_is_cut(golden):
    lr_up = golden["img_lr_up"]
    for sign in (-1, 1):
        decoded = SRDIFF.decode(SRDIFF.encode(lr_up + sign * 0.9, lr_up), lr_up)
        np.testing.assert_allclose(decoded, lr_up + sign * 0.5, atol=1e-6)
