"""The figures of a study are means of what its arms left; curves join arms of more steps."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from yoda_jax.errors import UserError
from yoda_jax.evaluation import study_report

METRICS = ("psnr", "ssim", "lpips", "colour_shift", "diffused")
NAMES = ["a", "a", "b"]


def result(size, steps, value, names=NAMES):
    """What an arm leaves of one training and sampling: examples that differ by hundredths."""
    values = {metric: [value + i / 100 for i in range(len(names))] for metric in METRICS}
    settings = {"train": {"batch_size": size, "steps": steps}}
    return {
        "settings": [settings, settings],
        "names": names,
        "lower_bound": 0.05,
        "values": values,
        "bicubic": {metric: [2.0] * len(names) for metric in METRICS},
    }


RESULTS = {  # two trainings of every arm, sampled once
    f"{name}, batch {size}, {steps} steps": [
        [result(size, steps, level + steps + seed)] for seed in (0, 1)
    ]
    for name, level in (("plain", 0.5), ("masked", 0.25))
    for size, all_steps in ((4, (20, 10)), (2, (30,)))
    for steps in all_steps
}


def test_figures_are_means_of_pictures():
    found = study_report.figures(RESULTS, "psnr")
    assert list(found) == ["bicubic", *RESULTS]
    expected = [[20.505, 20.52], [21.505, 21.52]]  # trainings x (mean of a's two examples, b)
    np.testing.assert_allclose(found["plain, batch 4, 20 steps"], expected)
    np.testing.assert_array_equal(found["bicubic"], np.full((2, 2), 2.0))


def test_samplings_of_a_training_are_averaged():
    samplings = {"arm": [[result(2, 10, 1.0), result(2, 10, 3.0)]]}
    np.testing.assert_allclose(study_report.figures(samplings, "lpips")["arm"], [[2.005, 2.02]])


def test_table_pairs_pictures_and_trainings():
    text = study_report.table(RESULTS, "masked, batch 2, 30 steps")
    (line,) = [line for line in text.splitlines() if line.startswith("| plain, batch 2")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # A quarter above the reference in every picture of every training: no spread at all.
    assert cells[3:5] == ["31.01", "31.0125"] and cells[7] == "+0.25 ± 0.00"


def test_table_speaks_of_no_interval_that_it_does_not_hold():
    assert "±" not in study_report.table(RESULTS, "")
    single = {label: [[result(2, 10, value, ["x"])]] for label, value in (("a", 1.0), ("b", 2.0))}
    text = study_report.table(single, "a")
    assert "| +1.00 " in text and "nan" not in text


def test_curves_have_a_column_a_batch_size_and_join_arms_in_order_of_steps():
    figure = study_report.curves(RESULTS)
    axes = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_title() for ax in axes[0]] == ["batch 2", "batch 4"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["colour shift", "PSNR dB", "LPIPS"]
    legend = dict(
        zip(
            (text.get_text() for text in figure.legends[0].get_texts()),
            figure.legends[0].get_lines(),
            strict=True,
        )
    )
    assert list(legend) == ["bicubic", "plain", "masked"]
    bicubic, *lines = axes[1, 1].get_lines()
    assert set(bicubic.get_ydata()) == {2.0}
    plain = [line for line in lines if same_color(line.get_color(), legend["plain"].get_color())]
    mean, *trainings = (line.get_xydata() for line in plain)
    np.testing.assert_allclose(mean, [[10, 11.0125], [20, 21.0125]])
    np.testing.assert_allclose(trainings[1], [[10, 11.5125], [20, 21.5125]])


def test_arms_of_other_pictures_are_refused():
    other = {**RESULTS, "other": [[result(2, 10, 1.0, ["a", "b", "c"])]]}
    with pytest.raises(UserError, match="keep the evaluated pictures; they differ"):
        study_report.figures(other, "psnr")
