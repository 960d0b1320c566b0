"""Noise schedules against both public implementations, and what re-spacing must keep."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoda_jax.diffusion.schedule import SCHEDULES, cosine, gammas, linear, noise_schedule

GOLDEN = Path(__file__).parents[1] / "golden"
ULP = 2.0**-23

BETAS = {
    "linear_2000": SCHEDULES["linear"](2000, 1e-6, 1e-2),
    "linear_100": SCHEDULES["linear"](100, 1e-6, 1e-2),
    "linear_100b": SCHEDULES["linear"](100, 1e-4, 9e-2),
    "quad_100": SCHEDULES["quad"](100, 1e-4, 2e-2),
    "warmup10_100": SCHEDULES["warmup10"](100, 1e-4, 2e-2),
    "warmup50_100": SCHEDULES["warmup50"](100, 1e-4, 2e-2),
    "const_100": SCHEDULES["const"](100, 1e-4, 2e-2),
    "cosine_100": SCHEDULES["cosine"](100, 0.0, 0.999),
    "srdiff_cosine_100": cosine(100),
}


def golden(tag):
    """The reference's arrays of a schedule and the steps (from 0) that the file keeps of them."""
    if tag.startswith("srdiff"):
        with np.load(GOLDEN / "srdiff_formulation.npz") as file:
            arrays = {k.removeprefix("sched/"): v for k, v in file.items() if "sched/" in k}
        return arrays, np.arange(100)
    with np.load(GOLDEN / "sr3_schedules.npz") as file:
        arrays = {k.removeprefix(f"{tag}/"): v for k, v in file.items() if k.startswith(f"{tag}/")}
    return arrays, arrays.pop("rows").astype(int)


def reference_buffers(schedule):
    """The twelve float32 buffers of the references from our five tables; computed in float64."""
    tables = {
        name: np.asarray(getattr(schedule, name), np.float64)
        for name in ("signal", "noise", "posterior_y0", "posterior_z", "posterior_std")
    }
    now = {name: table[1:] for name, table in tables.items()}
    signal, noise, before = now["signal"], now["noise"], tables["signal"][:-1]
    variance = now["posterior_std"] ** 2
    with np.errstate(divide="ignore"):
        # log(1 - g) from whichever of the two tables holds it well.
        log_noise = np.where(signal < noise, np.log1p(-(signal**2)), 2 * np.log(noise))
    return {
        "betas": now["posterior_y0"] * noise**2 / before,
        "alphas_cumprod": signal**2,
        "alphas_cumprod_prev": before**2,
        "sqrt_alphas_cumprod": signal,
        "sqrt_one_minus_alphas_cumprod": noise,
        "log_one_minus_alphas_cumprod": log_noise,
        "sqrt_recip_alphas_cumprod": 1 / signal,
        "sqrt_recipm1_alphas_cumprod": noise / signal,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": now["posterior_y0"],
        "posterior_mean_coef2": now["posterior_z"],
    }


@pytest.mark.parametrize("tag", BETAS)
def test_betas_and_gammas_are_the_references_in_float64(tag):
    arrays, rows = golden(tag)
    np.testing.assert_allclose(np.array(BETAS[tag])[rows], arrays["betas_f64"], rtol=1e-12)
    if "alphas_cumprod_f64" in arrays:
        ours = np.array(gammas(BETAS[tag]))
        assert ours[0] == 1.0
        np.testing.assert_allclose(ours[1:][rows], arrays["alphas_cumprod_f64"], rtol=1e-12)


@pytest.mark.parametrize("tag", BETAS)
def test_tables_hold_the_references_twelve_buffers(tag):
    arrays, rows = golden(tag)
    ours = reference_buffers(noise_schedule(BETAS[tag]))
    compared = {name for name in arrays if not name.endswith("_f64")}
    assert compared == set(ours)
    for name in compared:
        # A logarithm near 0 has the absolute error of its float32 argument.
        atol = 2 * ULP if "log" in name else 0.0
        np.testing.assert_allclose(
            ours[name][rows], arrays[name], rtol=2.5 * ULP, atol=atol, err_msg=name
        )
    assert arrays["posterior_variance"][0] == 0.0  # the last step adds no noise, clipped in the log


def test_index_0_is_the_clean_picture():
    schedule = noise_schedule(BETAS["linear_100"])
    assert schedule.num_steps == 100
    assert (schedule.signal[0], schedule.noise[0], schedule.posterior_std[1]) == (1, 0, 0)
    np.testing.assert_array_equal(schedule.index[1:], np.arange(100))  # SRDiff counts from 0


def test_all_steps_kept_is_the_full_chain():
    for tag in ("linear_2000", "cosine_100"):
        full, same = noise_schedule(BETAS[tag]), noise_schedule(BETAS[tag], len(BETAS[tag]))
        for name in vars(full):
            np.testing.assert_array_equal(getattr(full, name), getattr(same, name), err_msg=name)


RESPACED = pytest.mark.parametrize(
    ("tag", "steps"),
    [
        ("linear_2000", 100),
        ("linear_2000", 7),
        ("linear_2000", 1),
        ("linear_100b", 64),
        ("quad_100", 10),
        ("cosine_100", 33),
    ],
)


@RESPACED
def test_respaced_step_is_the_composition_of_the_steps_it_replaces(tag, steps):
    betas = BETAS[tag]
    short = noise_schedule(betas, steps)
    kept = np.asarray(short.index).astype(int) + 1
    assert (kept[0], kept[-1]) == (0, len(betas))
    signal = np.sqrt(gammas(betas))[kept]
    np.testing.assert_allclose(short.signal, signal, rtol=ULP)
    for i in range(1, steps + 1):
        # z_i = a z_{i-1} + sqrt(v) noise, by taking the replaced steps one after the other.
        a, v = 1.0, 0.0
        for beta in betas[kept[i - 1] : kept[i]]:
            a, v = a * np.sqrt(1 - beta), (1 - beta) * v + beta
        prior, variance = signal[i - 1] ** 2, 1 - signal[i - 1] ** 2
        np.testing.assert_allclose(prior * a**2, signal[i] ** 2, rtol=1e-9)
        # The product of N(z_{i-1}; s y0, variance) and N(z_i; a z_{i-1}, v), normalised.
        total = a**2 * variance + v
        expected = {
            "posterior_y0": v * signal[i - 1] / total,
            "posterior_z": a * variance / total,
            "posterior_std": np.sqrt(variance * v / total),
        }
        for name, value in expected.items():
            found = getattr(short, name)[i]
            np.testing.assert_allclose(found, value, rtol=2 * ULP, atol=1e-12, err_msg=name)


@RESPACED
def test_posterior_leads_from_the_marginal_of_t_to_that_of_the_step_before(tag, steps):
    tables = vars(noise_schedule(BETAS[tag], steps))
    names = ("signal", "noise", "posterior_y0", "posterior_z", "posterior_std")
    s, n, c_y0, c_z, std = (np.asarray(tables[name], np.float64) for name in names)
    np.testing.assert_allclose(c_y0[1:] + c_z[1:] * s[1:], s[:-1], atol=3 * ULP)
    np.testing.assert_allclose((c_z * n)[1:] ** 2 + std[1:] ** 2, n[:-1] ** 2, atol=3 * ULP)


@given(total=st.integers(1, 60), data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_number_of_steps_gives_a_chain_that_ends_where_training_ends(total, data):
    betas = linear(total, 1e-3, 0.2)
    short = noise_schedule(betas, data.draw(st.integers(1, total)))
    assert (np.diff(np.asarray(short.index)) > 0).all()
    assert (np.diff(np.asarray(short.signal)) < 0).all()
    assert short.signal[-1] == noise_schedule(betas).signal[-1]
    assert all(np.isfinite(table).all() for table in vars(short).values())


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_a_time_of_training_has_reached_the_steps_at_or_before_it(spacing):
    for total, steps in ((60, 60), (60, 7), (60, 1), (7, 5)):
        short = noise_schedule(linear(total, 1e-3, 0.2), steps, spacing)
        kept = np.asarray(short.index)[1:] + 1
        counted = [(kept <= n).sum() for n in range(total + 1)]
        np.testing.assert_array_equal(short.reached, counted)
        assert kept[-1] == total and (np.diff(kept) > 0).all()


def test_quadratic_spacing_is_denser_at_the_end_of_sampling():
    kept = np.asarray(noise_schedule(linear(100, 1e-3, 0.2), 10, "quadratic").index)[1:] + 1
    np.testing.assert_array_equal(kept, [1, 4, 9, 16, 25, 36, 49, 64, 81, 100])


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=rf"1\.\.100.*found {steps}"):
        noise_schedule(BETAS["linear_100"], steps)
