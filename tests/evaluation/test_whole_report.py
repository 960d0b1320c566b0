"""Tables of whole pictures: means, intervals, differences by picture; and files that parse back."""

import csv
import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from skimage import data

from yoda_jax.evaluation.whole_report import SHOWN, Measured, comparison, protocol, write

HARD = np.random.default_rng(0).normal(30, 5, 20)


def row(more):
    return {f"{i}.png": dict.fromkeys(SHOWN, value + more) for i, value in enumerate(HARD)}


@pytest.fixture
def measured():
    rows = {"a": row(0.0), "b": row(1.0), "old": {}}
    rows["a"]["alone.png"] = dict.fromkeys(SHOWN, 900.0)  # not in the other row
    return Measured(rows, ["a", "b"], {"b": ["a"]})


def test_means_are_over_the_pictures_that_all_rows_have(measured):
    means = measured.tables()["means"]
    assert means[0] == ["", *(name for name, _ in SHOWN.values())]
    assert means[1][1].startswith(f"{HARD.mean():.2f} (") and means[2][0] == "b"


def test_differences_are_paired_by_picture(measured):
    """Pictures differ by five, methods by one: only pairs show it without doubt."""
    differences = measured.tables()["differences"]
    assert differences[1][:3] == ["b", "a", "+1.00 (+1.00 - +1.00)"]


def test_figures_that_are_not_finite_are_left_out(measured):
    measured.rows["b"]["3.png"]["lr_psnr"] = np.inf
    measured.rows["a"]["4.png"]["lpips_inside"] = np.nan
    found = measured.figures()
    assert found["rows"]["b"]["lr_psnr"]["mean"] == pytest.approx(np.delete(HARD, 3).mean() + 1)
    assert found["rows"]["b"]["lr_psnr"]["finite"] == 19
    assert found["differences"]["b minus a"]["lr_psnr"]["mean"] == pytest.approx(1)
    assert found["differences"]["b minus a"]["lpips_inside"]["finite"] == 19


def test_one_picture_has_no_interval_and_none_no_mean():
    figures = dict.fromkeys(SHOWN, 3.0) | {"lr_psnr": np.inf}
    means = Measured({"a": {"x": figures}}, ["a"], {}).tables()
    assert list(means) == ["means"]
    shown = dict(zip(SHOWN, means["means"][1][1:], strict=True))
    assert shown["psnr"] == "3.00" and shown["lr_psnr"] == "-"


def test_files_parse_back(measured, tmp_path):
    text = write(epath.Path(tmp_path), "Title", {"protocol": "p", "step": 3}, {"Set": measured})
    assert "Set, means" in text and "Set, differences" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["step"] == 3 and metrics["sets"]["Set"]["pictures"] == 20
    with (tmp_path / "per_image.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["set", "method", "picture", *SHOWN] and len(lines) == 41
    assert float(lines[0][3]) == pytest.approx(HARD[0], rel=1e-5)
    assert ">Set, means<" in (tmp_path / "report.html").read_text()


def test_the_page_shows_the_middle_of_a_picture():
    picture = np.asarray(Image.fromarray(data.astronaut()).resize((1200, 1000)))
    shown = comparison("x", {"HR": picture}, picture[..., :1], picture[..., 1:2])
    import io

    with Image.open(io.BytesIO(shown.layers["HR"])) as image:
        assert image.size == (960, 720)
        error = np.abs(np.asarray(image, float) - picture[140:860, 120:1080])
        assert error.mean() < 1.5
    with Image.open(io.BytesIO(shown.mask)) as image:
        assert image.mode == "L" and image.size == (320, 240)


def test_the_protocol_says_what_is_cut_off():
    assert "border of 4 pixels" in protocol(4, "cpu") and "25%" in protocol(4, "cpu")
