"""A study trains what its arms share once, keeps what is done, and compares picture by picture."""

import json

import numpy as np
import pytest
from scipy import stats

from configs import attention_study, demo
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.jobs import build, precompute, study, summary, train, validation

BASE = {"mask.enabled": False}
ARMS = (
    ("plain, longer", {**BASE, "train.steps": 4}, {}),
    ("plain", BASE, {}),
    ("edges", BASE, {"mask.enabled": True}),
    ("random", BASE, {"mask.enabled": True, "attention.source": "random"}),
)


def configuration(**fields):
    config = demo.get_config()
    config.data.update(hr_size=32, stride=64, patch=16)
    config.attention.update(source="edges", input_size=64, cell=4)
    config.model.update(features=8, multipliers=(1, 2), groups=4)
    config.train.update(batch_size=8, steps=2, checkpoint_every=2, log_every=2)
    config.eval.update(pictures=8, batch_size=8)
    config.diffusion.sampling_steps = 3
    config.study.update(arms=ARMS, sample_seeds=2, reference="edges", diffused=0.4)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    study.run(configuration(), str(workdir))
    return workdir


def results(workdir):
    return {
        path.name.removesuffix(" seed 0.json"): json.loads(path.read_text())
        for path in (workdir / "results").iterdir()
    }


def test_arms_share_a_training_which_goes_on_from_the_fewest_steps(done):
    assert [p.name for p in (done / "trainings").iterdir()] == ["mask.enabled=False seed 0"]
    found = results(done)
    assert set(found) == {label for label, *_ in ARMS}
    steps = {label: saved["settings"][0]["train"]["steps"] for label, saved in found.items()}
    assert steps == {"plain": 2, "edges": 2, "random": 2, "plain, longer": 4}
    psnr = {label: found[label]["values"][label]["psnr"] for label in found}
    assert len({tuple(values) for values in psnr.values()}) == len(ARMS)


def test_masks_diffuse_what_was_asked_for(done):
    for label, saved in results(done).items():
        diffused = saved["values"][label]["diffused"]
        expected = 1 if label.startswith("plain") else 0.4
        assert np.mean(diffused) == pytest.approx(expected, abs=0.002)


def test_maps_of_one_kind_share_records(done):
    assert {p.name for p in (done / "records").iterdir()} == {"edges 64 4", "random 64 4"}
    names = [
        [Records(done / "records" / kind / "eval")[i]["name"] for i in range(3)]
        for kind in ("edges 64 4", "random 64 4")
    ]
    assert names[0] == names[1]


def test_table_holds_means_and_paired_differences_of_pictures(done):
    table = (done / "study.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if "|" in line}
    assert [*lines][2:] == ["bicubic", *(label for label, *_ in ARMS)]
    assert "8 held-out examples of 2 pictures" in table and "sampled 2 times in 3 steps" in table
    found = results(done)
    names = found["edges"]["values"]["edges"]["names"]
    per_picture = {
        label: study.by_picture(np.array(found[label]["values"][label]["psnr"]), names)
        for label in ("edges", "random")
    }
    assert f"| {per_picture['random'].mean():.2f} |" in lines["random"]
    difference = (per_picture["random"] - per_picture["edges"]).mean()
    assert f"| {difference:+.2f} ± " in lines["random"]


def test_a_finished_study_is_only_told_again(done, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in (done / "results").iterdir()}
    monkeypatch.setattr(train, "fit", None)
    study.run(configuration(), str(done))
    assert {p: p.stat().st_mtime_ns for p in (done / "results").iterdir()} == before
    assert (done / "study.md").read_text().strip() in capsys.readouterr().out


def test_other_settings_are_measured_anew_with_the_same_weights(done, monkeypatch):
    """But not from a checkpoint that has gone past the steps of the arm."""
    arm = ("edges", BASE, {"mask.enabled": True})
    with pytest.raises(UserError, match="is at step 4, past the 2 of 'edges'"):
        study.run(configuration(**{"study.arms": (arm,), "study.diffused": 0.5}), str(done))
    longer = ("longer", {**BASE, "train.steps": 4}, {"mask.enabled": True})
    fields = {"study.arms": (longer,), "study.diffused": 0.5, "study.reference": "longer"}
    study.run(configuration(**fields), str(done))
    found = results(done)["longer"]["values"]["longer"]
    assert np.mean(found["diffused"]) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.9])
def test_lower_bound_reaches_the_fraction(done, fraction):
    config = configuration(**{"data.records": str(done / "records/edges 64 4")})
    bound = study.lower_bound(config, fraction)
    records = Records(build.record_folder(config, "", "eval"))
    attention = summary.maps(config, records, summary.spread(8, len(records))) / 255
    assert np.clip(attention + bound, 0, 1).mean() == pytest.approx(fraction, abs=2e-4)


def test_examples_of_a_picture_count_once():
    values = study.by_picture(np.array([1.0, 5.0, 3.0, 7.0]), ["b", "a", "b", "b"])
    np.testing.assert_allclose(values, [5, 11 / 3])


def test_interval_is_that_of_the_t_test():
    differences = np.random.default_rng(0).normal(1, 2, 12)
    mean, half = study.interval(differences)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"study.arms": ()}, "study.arms must be arms of different labels"),
        ({"study.arms": (ARMS[0], ARMS[0])}, "study.arms must be arms of different labels"),
        ({"study.reference": "SIFT"}, "study.reference must be one of .*edges.*'SIFT'"),
    ],
)
def test_senseless_studies_are_refused_before_anything_is_read(
    fields, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(precompute, "run", None)
    with pytest.raises(UserError, match=message):
        study.run(configuration(**fields), str(tmp_path))


@pytest.mark.parametrize("stage", ["sampler", "trained"])
def test_shipped_study_is_valid(stage):
    config = attention_study.get_config(stage)
    validation.validate(config)
    labels = [label for label, *_ in config.study.arms]
    assert config.study.reference in labels and len(set(labels)) == len(labels)
    for _, *parts in config.study.arms:
        for fields in parts:
            config.copy_and_resolve_references().update_from_flattened_dict(fields)


def test_unknown_stage_lists_the_known():
    with pytest.raises(ValueError, match="sampler, trained.*'all'"):
        attention_study.get_config("all")
