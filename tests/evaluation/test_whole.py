"""Figures of whole pictures: both protocols, high attention and the rest, kept by picture."""

import numpy as np
import pytest
from etils import epath
from skimage import data

from yoda_jax.data.degrade import downsample
from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.intervals import bootstrap
from yoda_jax.evaluation.whole import SHOWN, Made, Results, WholeMeasure, differences, table

HR = data.chelsea()[100:164, 120:200]
LR = downsample(HR, 4, "matlab")
ATTENTION = np.zeros((64, 80, 1), np.uint8)
ATTENTION[:, 60:] = np.arange(20, dtype=np.uint8)[None, :, None] + 100  # a quarter


@pytest.fixture(scope="module")
def measure():
    return WholeMeasure(4, "matlab")


def test_the_true_picture_is_without_fault(measure):
    figures = measure(Made(HR, 3.5, 2.0), HR, LR, ATTENTION)
    assert figures.keys() == SHOWN.keys()
    assert figures["lpips"] == figures["lpips_inside"] == figures["colour_shift"] == 0
    assert figures["psnr"] == figures["lr_psnr"] == np.inf and figures["ssim_y"] == 1
    assert (figures["evaluations"], figures["seconds"]) == (3.5, 2.0)


def test_the_fields_protocol_leaves_out_a_border_of_the_scale(measure):
    framed = HR.copy()
    framed[:4] = framed[-4:] = 0
    framed[:, :4] = framed[:, -4:] = 0
    figures = measure(Made(framed, 0.0, 0.0), HR, LR, ATTENTION)
    assert figures["psnr_y"] == np.inf and figures["psnr"] == fidelity.psnr(framed, HR) < 30


def test_a_fault_counts_where_attention_is_high_or_elsewhere(measure):
    rng = np.random.default_rng(0)
    spoilt = HR.copy()
    spoilt[:, 64:] = rng.integers(0, 256, (64, 16, 3))
    figures = measure(Made(spoilt, 0.0, 0.0), HR, LR, ATTENTION)
    assert figures["lpips_inside"] > 4 * figures["lpips_outside"] > 0
    # Together they are about the whole: bilinear enlargement keeps means but for the rim.
    both = 0.25 * figures["lpips_inside"] + 0.75 * figures["lpips_outside"]
    assert both == pytest.approx(figures["lpips"], rel=0.15)


def test_figures_are_kept_with_what_was_asked_for(tmp_path):
    results = Results(epath.Path(tmp_path))
    assert results.get("map: a/b", "x/y.png", {"seed": 0}) is None
    results.put("map: a/b", "x/y.png", {"seed": 0}, {"psnr": 3.0})
    assert results.get("map: a/b", "x/y.png", {"seed": 0}) == {"psnr": 3.0}
    assert results.get("map: a/b", "x/y.png", {"seed": 1}) is None
    assert results.rows() == {"map: a/b": {"x/y.png": {"psnr": 3.0}}}


def test_tables_show_means_and_paired_differences():
    rng = np.random.default_rng(0)
    hard = rng.normal(30, 5, 20)
    rows = {
        name: {f"{i}.png": dict.fromkeys(SHOWN, value + more) for i, value in enumerate(hard)}
        for name, more in (("a", 0.0), ("b", 1.0))
    }
    rows["a"]["alone.png"] = dict.fromkeys(SHOWN, 900.0)  # not in the other row
    assert f"{hard.mean():.2f} (" in table(rows, ["a", "b"])
    assert "+1.00 (+1.00 - +1.00)" in differences(rows, {"b": "a"})


def test_the_bootstrap_interval_is_students_for_many():
    values = np.random.default_rng(1).normal(2, 3, 400)
    low, high = bootstrap(values)
    expected = 2 * 1.96 * values.std() / 20
    assert high - low == pytest.approx(expected, rel=0.1) and low < values.mean() < high
    assert np.isnan(bootstrap(values[:1])).all()
