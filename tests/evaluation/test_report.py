"""The report's figures are right, parse back in other programs, and its pictures are in place."""

import base64
import csv
import html
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import sem
from skimage import data

from yoda_jax.evaluation import report
from yoda_jax.evaluation.report import Row, picture_grid, picture_sheet, table, write

# The last is no UTF-8, as file systems allow.
NAMES = ['a, "quoted".png', "b\nc.png", "<d> & \u00e4\udcff.png"]
ROWS = [
    Row("bicubic", {"psnr": [20.123456789, 25, 31], "lpips": [0.5, 0.25, 0.1], "extra": [1, 2, 4]}),
    Row("<YODA> & co", {"psnr": [21, 26.5, 30], "lpips": [0.4, 0.2, 0.1], "extra": [0, 0, 0]}),
]
PROTOCOL = "RGB & <i>Y</i>, border 0"


def strict(constant):
    raise AssertionError(f"{constant} is no JSON")


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_mean_and_standard_error(values):
    row = Row("x", {"psnr": values})
    np.testing.assert_allclose(row.mean("psnr"), np.mean(values), atol=1e-9)
    np.testing.assert_allclose(row.error("psnr"), sem(values), atol=1e-9)


def test_table_shows_mean_and_error_of_the_common_metrics():
    lines = table([*ROWS, Row("part", {"lpips": [0.3, 0.3, 0.3], "psnr": [1, 2, 3]})]).split("\n")
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "PSNR dB", "LPIPS"]
    assert all(set(cell) == {"-"} for cell in cells[1])
    assert cells[4] == ["part", "2.00 ± 0.58", "0.300 ± 0.000"]
    for row, line in zip(ROWS, cells[2:4], strict=True):
        psnr, lpips = row.values["psnr"], row.values["lpips"]
        assert line == [
            row.label,
            f"{np.mean(psnr):.2f} ± {np.std(psnr, ddof=1) / 3**0.5:.2f}",
            f"{np.mean(lpips):.3f} ± {np.std(lpips, ddof=1) / 3**0.5:.3f}",
        ]


@pytest.fixture(scope="module")
def sheet():
    return picture_sheet({"LR": [data.coffee()[:8, :8]]}, 16)


def test_files_parse_back(tmp_path, sheet):
    folder = tmp_path / "new/eval"
    write(folder, ROWS, NAMES, PROTOCOL, sheet)
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json",
        "per_image.csv",
        "sheet.png",
        "report.html",
    }

    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=strict)
    assert (metrics["protocol"], metrics["pictures"]) == (PROTOCOL, 3)
    assert list(metrics["rows"]) == [row.label for row in ROWS]
    for row in ROWS:
        for metric, values in row.values.items():
            found = metrics["rows"][row.label][metric]
            assert found == pytest.approx({"mean": np.mean(values), "error": sem(values)})

    with (folder / "per_image.csv").open(newline="", errors="surrogateescape") as file:
        header, *lines = csv.reader(file)
    assert header == ["method", "picture", "psnr", "lpips", "extra"]
    assert [line[:2] for line in lines] == [[row.label, name] for row in ROWS for name in NAMES]
    found = np.array([line[2:] for line in lines], float)
    expected = np.concatenate([np.transpose(list(row.values.values())) for row in ROWS])
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    np.testing.assert_array_equal(np.array(Image.open(folder / "sheet.png")), np.array(sheet))
    page = (folder / "report.html").read_text(encoding="utf-8")
    pre = re.search("<pre>(.*)</pre>", page, re.DOTALL).group(1)
    assert html.unescape(pre) == table(ROWS)
    assert "<YODA>" not in page and "&lt;YODA&gt; &amp; co" in pre
    assert html.escape(PROTOCOL) in page and "<i>" not in page
    image = re.search("src='data:image/png;base64,([^']*)'", page).group(1)
    assert base64.b64decode(image, validate=True) == (folder / "sheet.png").read_bytes()
    assert not re.search("(src|href)=.?http", page)  # readable without a network


def test_one_picture_has_no_error(tmp_path, sheet):
    """NaN and infinity are no JSON: other programs would refuse the file."""
    rows = [Row("x", {"psnr": [30.0]}), Row("same", {"psnr": [np.inf]})]
    with np.errstate(all="raise"):
        write(tmp_path, rows, ["a.png"], PROTOCOL, sheet)
        assert "30.00 ± nan" in table(rows)
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=strict)
    assert metrics["rows"]["x"]["psnr"] == {"mean": 30.0, "error": None}
    assert metrics["rows"]["same"]["psnr"]["mean"] is None
    with (tmp_path / "per_image.csv").open(newline="") as file:
        assert [float(line[2]) for line in list(csv.reader(file))[1:]] == [30, np.inf]


def test_second_report_replaces_the_first(tmp_path, sheet):
    write(tmp_path, ROWS, NAMES, "first", sheet)
    write(tmp_path, ROWS[:1], NAMES, "second", sheet)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"] == "second" and len(metrics["rows"]) == 1
    assert len(list(tmp_path.iterdir())) == 4


def test_interrupted_report_leaves_the_earlier_one(tmp_path, sheet, monkeypatch):
    write(tmp_path, ROWS, NAMES, "first", sheet)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(part, content):
        with open(part, "wb") as file:
            file.write(content[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(report.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, ROWS, NAMES, "second", sheet)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_sheet_copies_pixels_into_their_places():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    grey = rng.integers(0, 256, (3, 16, 16, 1), np.uint8)
    full = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    columns = {"LR": small, "attention": grey, "HR": list(full)}
    sheet = picture_sheet(columns, 16)
    margin, header = 4, 14
    assert sheet.mode == "RGB"
    assert sheet.size == (margin + 3 * (16 + margin), header + margin + 3 * (16 + margin))
    pixels = np.array(sheet)
    outside = np.ones(pixels.shape[:2], bool)
    for i, pictures in enumerate((small.repeat(4, 1).repeat(4, 2), grey.repeat(3, -1), full)):
        left = margin + 20 * i
        for j in range(3):
            top = header + 20 * j
            place = np.s_[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(pixels[place], pictures[j])
            outside[place] = False
        # The label stands above its column.
        assert (pixels[:header, left : left + 16] < 128).any()
    outside[:header] = False
    assert len(np.unique(pixels[outside], axis=0)) == 1


def test_grid_shows_a_batch():
    rng = np.random.default_rng(1)
    rows = {
        "lr": rng.integers(0, 256, (2, 8, 8, 3), np.uint8),
        "attention": rng.integers(0, 256, (2, 32, 32, 1), np.uint8),
        "sr": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "hr": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
    }
    grid = picture_grid(rows)
    assert grid.dtype == np.uint8 and grid.shape == (14 + 4 + 2 * 68, 4 + 4 * 68, 3)
    for i, key in enumerate(("lr", "attention", "sr", "hr")):
        shown = grid[14 + 68 : 14 + 68 + 64, 4 + 68 * i : 4 + 68 * i + 64]
        factor = 64 // rows[key].shape[1]
        expected = rows[key][1].repeat(factor, 0).repeat(factor, 1)
        np.testing.assert_array_equal(shown, np.broadcast_to(expected, shown.shape))
