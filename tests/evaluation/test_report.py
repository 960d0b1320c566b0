"""The report's figures are right and parse back in other programs."""

import base64
import csv
import html
import json
import re

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import sem, ttest_rel
from skimage import data

from yoda_jax.evaluation.report import Row, summarise, table, write
from yoda_jax.evaluation.sheet import picture_sheet

# The last is no UTF-8, as file systems allow. The first picture gave two examples.
NAMES = ['a, "quoted".png', 'a, "quoted".png', "b\nc.png", "<d> & \u00e4\udcff.png"]
EXAMPLES = [f"{i} {name}" for i, name in enumerate(NAMES)]
ROWS = [
    Row("bicubic", {"psnr": [20.123456789, 25, 31, 7], "lpips": [0.5, 0.25, 0.1, 0.3]}),
    Row("<YODA> & co", {"psnr": [21, 26.5, 30, 9], "lpips": [0.4, 0.2, 0.1, 0.2]}),
]
FACTS = {"protocol": "RGB & <i>Y</i>, border 0", "step": 7}


def by_hand(values):
    """Means of pictures."""
    return np.array([(values[0] + values[1]) / 2, *values[2:]])


def strict(constant):
    raise AssertionError(f"{constant} is no JSON")


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_mean_and_standard_error_are_those_of_pictures(values):
    names = [str(i) for i in range(len(values))]
    once = summarise([Row("x", {"psnr": values})], names)["psnr"]
    np.testing.assert_allclose(once.mean(0), (np.mean(values), sem(values)), atol=1e-9)
    # Cut into equal tiles, the pictures tell no more than before.
    several = [name for name in names for _ in range(5)]
    tiles = summarise([Row("x", {"psnr": np.repeat(values, 5)})], several)["psnr"]
    np.testing.assert_allclose(tiles.mean(0), once.mean(0), atol=1e-9)


def test_differences_are_paired_by_picture():
    found = summarise(ROWS, NAMES)["psnr"]
    one, other = (by_hand(row.values["psnr"]) for row in ROWS)
    mean, half = found.difference(1, 0)
    low, high = ttest_rel(other, one).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


def test_an_infinite_example_is_left_out_of_all_rows_and_counted():
    rows = [Row("a", {"psnr": [np.inf, 20, 30]}), Row("b", {"psnr": [50, 10, 20]})]
    found = summarise(rows, ["x", "y", "z"])["psnr"]
    assert [found.mean(row)[0] for row in (0, 1)] == [25, 15]
    assert found.left_out == 1 and "left out of all rows: PSNR dB 1." in table(
        rows, ["x", "y", "z"]
    )


def test_table_shows_means_errors_and_differences_of_the_common_metrics():
    third = Row("part", {"lpips": [0.3] * 4, "psnr": [1, 3, 2, 3], "extra": [0] * 4})
    means, differences = table([*ROWS, third], NAMES, reference=1).split("\n\n")
    lines = means.split("\n")
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "PSNR dB", "LPIPS"]
    assert all(set(cell) == {"-"} for cell in cells[1])
    assert cells[4] == ["part", "2.33 ± 0.33", "0.300 ± 0.000"]
    for row, line in zip(ROWS, cells[2:4], strict=True):
        psnr, lpips = by_hand(row.values["psnr"]), by_hand(row.values["lpips"])
        assert line == [
            row.label,
            f"{np.mean(psnr):.2f} ± {np.std(psnr, ddof=1) / 3**0.5:.2f}",
            f"{np.mean(lpips):.3f} ± {np.std(lpips, ddof=1) / 3**0.5:.3f}",
        ]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in differences.split("\n")
    ]
    assert [line[0] for line in cells] == ["minus <YODA> & co", cells[1][0], "bicubic", "part"]
    assert cells[2][1].startswith("-0.73 ± ")


@pytest.fixture(scope="module")
def sheet():
    return picture_sheet({"LR": [data.coffee()[:8, :8]]}, 16)


def test_files_parse_back(tmp_path, sheet):
    folder = epath.Path(tmp_path) / "new/eval"
    write(folder, ROWS, NAMES, EXAMPLES, FACTS, sheet)
    names = {"metrics.json", "per_image.csv", "sheet.png", "report.html"}
    assert {p.name for p in folder.iterdir()} == names

    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=strict)
    assert (metrics["protocol"], metrics["step"]) == (FACTS["protocol"], 7)
    assert (metrics["examples"], metrics["pictures"]) == (4, 3)
    assert list(metrics["rows"]) == [row.label for row in ROWS]
    for row in ROWS:
        for metric, values in row.values.items():
            found = metrics["rows"][row.label][metric]
            pictures = by_hand(values)
            assert found == pytest.approx({"mean": np.mean(pictures), "error": sem(pictures)})
    assert metrics["differences to"] == "bicubic"
    assert list(metrics["differences"]) == ["<YODA> & co"]

    with open(folder / "per_image.csv", newline="", errors="surrogateescape") as file:
        header, *lines = csv.reader(file)
    assert header == ["method", "picture", "psnr", "lpips"]
    assert [line[:2] for line in lines] == [[r.label, name] for r in ROWS for name in EXAMPLES]
    found = np.array([line[2:] for line in lines], float)
    expected = np.concatenate([np.transpose(list(row.values.values())) for row in ROWS])
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    np.testing.assert_array_equal(np.array(Image.open(folder / "sheet.png")), np.array(sheet))
    page = (folder / "report.html").read_text(encoding="utf-8")
    for line in table(ROWS, NAMES).split("\n"):
        for cell in (cell.strip() for cell in line.split("|")):
            assert not cell.strip("-") or f">{html.escape(cell)}<" in page
    assert "<YODA>" not in page and "&lt;YODA&gt; &amp; co" in page
    assert html.escape(FACTS["protocol"]) in page and "<i>" not in page
    image = re.search('src="data:image/png;base64,([^"]*)"', page).group(1)
    assert base64.b64decode(image, validate=True) == (folder / "sheet.png").read_bytes()
    assert not re.search("(src|href)=.?http", page)  # readable without a network


def test_one_picture_has_no_error(tmp_path, sheet):
    """NaN and infinity are no JSON: other programs would refuse the file."""
    rows = [Row("x", {"psnr": [30.0]}), Row("same", {"psnr": [np.inf]})]
    assert "| 30.00 " in table(rows[:1], ["a"]) and "±" not in table(rows[:1], ["a"])
    write(epath.Path(tmp_path), rows, ["a.png"], ["0 a.png"], FACTS, sheet)
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=strict)
    assert metrics["rows"]["x"]["psnr"] == {"mean": None, "error": None}
    assert metrics["left out"] == {"psnr": 1}
    with (tmp_path / "per_image.csv").open(newline="") as file:
        assert [float(line[2]) for line in list(csv.reader(file))[1:]] == [30, np.inf]


def test_second_report_replaces_the_first(tmp_path, sheet):
    folder = epath.Path(tmp_path)
    write(folder, ROWS, NAMES, EXAMPLES, {"protocol": "first"}, sheet)
    write(folder, ROWS[:1], NAMES, EXAMPLES, {"protocol": "second"}, sheet)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"] == "second" and len(metrics["rows"]) == 1
    assert len(list(tmp_path.iterdir())) == 4
