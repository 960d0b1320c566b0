"""Figures of whole pictures: both protocols, high attention and the rest, kept by picture."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from configs import default
from yoda_jax.data.degrade import downsample
from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.intervals import bootstrap
from yoda_jax.evaluation.whole import (
    Made,
    Results,
    WholeMeasure,
    _safe,
    made_by,
    pixels_print,
    sampled,
)
from yoda_jax.evaluation.whole_report import SHOWN
from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.regression import Regression
from yoda_jax.tiled import Tiled
from yoda_jax.training.sharding import make_mesh

HR = data.chelsea()[100:164, 120:200]
LR = downsample(HR, 4, "matlab")
ATTENTION = np.zeros((64, 80, 1), np.uint8)
ATTENTION[:, 60:] = np.arange(20, dtype=np.uint8)[None, :, None] + 100  # a quarter
# Of a network that is called once.
TILED = Tiled(Regression(RRDBNet(4, 1), 4, "matlab"), make_mesh(), 32, 8, 8)


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
    asked = {"seed": 0, "chain": {"steps": (1, 2)}}
    results.put("map: a/b", "x/y.png", asked | {"picture": "p"}, {"psnr": 3.0})
    results.put("map: a/b", "gone.png", asked, {"psnr": 4.0})
    assert results.get("map: a/b", "x/y.png", asked | {"picture": "p"}) == {"psnr": 3.0}
    assert results.get("map: a/b", "x/y.png", asked) is None
    assert results.rows(["x/y.png"], asked) == {"map: a/b": {"x/y.png": {"psnr": 3.0}}}
    assert results.rows(["x/y.png"], asked | {"seed": 1}) == {}


def test_weights_map_and_chain_are_what_a_picture_is_made_by():
    config = default.get_config()
    before = made_by(config.to_dict(), {"a": np.zeros(3)}, 0)
    config.attention.batch_size, config.train.steps = 3, 7
    assert made_by(config.to_dict(), {"a": np.zeros(3)}, 0) == before
    changes = {"attention.fraction": 0.1, "diffusion.spacing": "quadratic", "mask.input": "masked"}
    for field, value in changes.items():
        other = default.get_config()
        other.update_from_flattened_dict({field: value})
        assert made_by(other.to_dict(), {"a": np.zeros(3)}, 0) != before
    assert made_by(config.to_dict(), {"a": np.ones(3)}, 0) != before


def test_what_was_made_is_kept_beside_its_figures(tmp_path):
    results = Results(epath.Path(tmp_path))
    results.put("row", "x.png", {"seed": 0}, {"psnr": 3.0}, HR)
    results.put("map", "x.png", {"seed": 1}, {}, ATTENTION)
    np.testing.assert_array_equal(results.picture("row", "x.png"), HR)
    np.testing.assert_array_equal(results.picture("map", "x.png"), ATTENTION)
    assert results.asked("row") == {"x.png": {"seed": 0}}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_each_name_has_a_file_of_its_own(names):
    files = [_safe(name) for name in names]
    assert len(set(files)) == len(files) and max(map(len, files), default=0) <= 200
    assert not any("/" in file or file.startswith(".") for file in files)


def test_a_print_tells_pictures_apart():
    changed = HR.copy()
    changed[3, 4, 1] ^= 1
    turned = HR.reshape(80, 64, 3)  # the same bytes
    assert len({pixels_print(picture) for picture in (HR, changed, turned)}) == 3
    assert pixels_print(HR) == pixels_print(np.asfortranarray(HR))


def test_seconds_are_without_compilation():
    """Many small steps take longer to compile than to compute, once."""

    def sample():
        def many(x):
            for i in range(60):
                x = jnp.sin(x) * i + jnp.roll(x, i)
            return x

        jax.jit(many)(jnp.ones(8)).block_until_ready()
        return HR

    begun = time.monotonic()
    made = sampled(TILED, ATTENTION, sample)
    assert 0 <= made.seconds < 0.7 * (time.monotonic() - begun)
    assert made.evaluations == 1


def test_seconds_hold_what_is_waited_for():
    made = sampled(TILED, ATTENTION, lambda: time.sleep(0.2) or HR)
    assert 0.2 <= made.seconds < 1


def test_the_bootstrap_interval_is_students_for_many():
    values = np.random.default_rng(1).normal(2, 3, 400)
    low, high = bootstrap(values)
    expected = 2 * 1.96 * values.std() / 20
    assert high - low == pytest.approx(expected, rel=0.1) and low < values.mean() < high
    assert np.isnan(bootstrap(values[:1])).all()
