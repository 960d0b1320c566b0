"""A study trains what its arms share once, keeps what is done, and compares picture by picture."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import attention_study, batch_study, demo
from yoda_jax.attention.maps import Reading
from yoda_jax.configuration import build
from yoda_jax.configuration import fields as checks
from yoda_jax.data.batches import maps, spread
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.evaluation.intervals import by_picture
from yoda_jax.jobs import precompute, study, train
from yoda_jax.runs import Run

pytestmark = pytest.mark.slow
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
    config.study.update(arms=ARMS, sample_seeds=2, reference="edges", diffused=0.4, curves=True)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    study.run(configuration(), str(workdir))
    return workdir


def results(workdir):
    """The first sampling of each arm."""
    return {
        path.name.removesuffix(" seed 0 sampled 0.json"): json.loads(path.read_text())
        for path in (workdir / "results").glob("* sampled 0.json")
    }


def test_arms_share_a_training_which_goes_on_from_the_fewest_steps(done):
    assert [p.name for p in (done / "trainings").iterdir()] == ["mask.enabled=False seed 0"]
    found = results(done)
    assert set(found) == {label for label, *_ in ARMS}
    steps = {label: saved["settings"][0]["train"]["steps"] for label, saved in found.items()}
    assert steps == {"plain": 2, "edges": 2, "random": 2, "plain, longer": 4}
    psnr = {label: found[label]["values"]["psnr"] for label in found}
    assert len({tuple(values) for values in psnr.values()}) == len(ARMS)


def test_masks_diffuse_what_was_asked_for(done):
    for label, saved in results(done).items():
        diffused = saved["values"]["diffused"]
        expected = 1 if label.startswith("plain") else 0.4
        assert np.mean(diffused) == pytest.approx(expected, abs=0.002)


def test_maps_of_one_kind_share_records(done):
    folders = sorted((done / "records").iterdir())
    assert [folder.name.split()[0] for folder in folders] == ["edges", "random"]
    # Those of a map that is only sampled have no part for training.
    assert [sorted(p.name for p in folder.iterdir()) for folder in folders] == [
        ["eval", "train"],
        ["eval"],
    ]
    names = [[Records(folder / "eval")[i]["name"] for i in range(3)] for folder in folders]
    assert names[0] == names[1]


def test_table_holds_means_and_paired_differences_of_pictures(done):
    table = (done / "study.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if "|" in line}
    assert [*lines][2:] == ["bicubic", *(label for label, *_ in ARMS)]
    assert "8 held-out examples of 2 pictures" in table and "sampled 2 times in 3 steps" in table
    names = results(done)["edges"]["names"]

    def psnr(label):
        files = (done / "results").glob(f"{label} seed 0 sampled ?.json")
        return np.mean([json.loads(file.read_text())["values"]["psnr"] for file in files], axis=0)

    per_picture = {label: by_picture(psnr(label), names) for label in ("edges", "random")}
    assert f"| {per_picture['random'].mean():.2f} " in lines["random"]
    difference = (per_picture["random"] - per_picture["edges"]).mean()
    assert f"| {difference:+.2f} ± " in lines["random"]


def test_curves_are_drawn(done):
    with Image.open(done / "study.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300


def test_a_finished_study_is_only_told_again(done, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in (done / "results").iterdir()}
    monkeypatch.setattr(train, "fit", None)
    study.run(configuration(), str(done))
    assert {p: p.stat().st_mtime_ns for p in (done / "results").iterdir()} == before
    assert (done / "study.md").read_text().strip() in capsys.readouterr().out


def test_what_changes_no_picture_needs_no_new_one(done, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    fields = {
        "study.reference": "random",
        "train.log_every": 1,
        "data.threads": 2,
        "study.sample_seeds": 1,
    }
    study.run(configuration(**fields), str(done))
    assert "PSNR dB - random" in (done / "study.md").read_text()


def test_results_from_before_a_field_are_those_of_what_was_done_then(done, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "fit", None)
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "results").iterdir():
        saved = json.loads(path.read_text())
        for settings in saved["settings"]:
            del settings["mask"]["times"]
        path.write_text(json.dumps(saved))
    study.run(configuration(**{"mask.times": "uniform"}), str(tmp_path))
    with pytest.raises(TypeError):  # drawn by area they would have to be trained anew
        study.run(configuration(), str(tmp_path))


def test_a_training_with_other_settings_is_not_taken_for_it(done):
    longer = ("longer", {**BASE, "train.steps": 4, "train.learning_rate": 1e-3}, {})
    other = ("longer", {**BASE, "train.steps": 4}, {})
    fields = {"study.arms": (other,), "study.reference": "", "train.learning_rate": 1e-3}
    with pytest.raises(UserError, match="has its 4 steps already, .*learning_rate=0.0005"):
        study.run(configuration(**fields), str(done))
    both = study.arms_of(configuration(**{"study.arms": (longer, ("o", *other[1:]))}), Run(done))
    assert both[0].training != both[1].training


def test_other_settings_are_measured_anew_with_the_same_weights(done):
    """But not from a checkpoint that has gone past the steps of the arm."""
    arm = ("edges", BASE, {"mask.enabled": True})
    with pytest.raises(UserError, match="at step 4 .*or past its 2 steps"):
        study.run(configuration(**{"study.arms": (arm,), "study.diffused": 0.5}), str(done))
    longer = ("longer", {**BASE, "train.steps": 4}, {"mask.enabled": True})
    fields = {"study.arms": (longer,), "study.diffused": 0.5, "study.reference": "longer"}
    study.run(configuration(**fields), str(done))
    found = results(done)["longer"]["values"]
    assert np.mean(found["diffused"]) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.9])
def test_lower_bound_reaches_the_fraction(done, fraction):
    (folder,) = (done / "records").glob("edges *")
    config = configuration(**{"data.records": str(folder)})
    bound = study.lower_bound(config, fraction)
    records = build.records(config, Run("."), "eval")
    attention = maps(records, spread(8, len(records)), Reading()) / 255
    assert np.clip(attention + bound, 0, 1).mean() == pytest.approx(fraction, abs=2e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"study.arms": ()}, "study.arms must be arms of different labels"),
        ({"study.arms": (ARMS[0], ARMS[0])}, "study.arms must be arms of different labels"),
        ({"study.reference": "SIFT"}, "study.reference must be one of .*edges.*'SIFT'"),
        ({"data.records": "/r"}, "data.records must not be set in a study, found '/r'"),
        ({"train.batch_size": 3}, "train.batch_size=3 must be divisible by 8"),
        ({"study.arms": (("a", {"mask.lower": 1}, {}),)}, "mask.lower, which is no field"),
        ({"study.arms": (("a", {"lower": 1}, {}),)}, "lower, which is no field"),
        ({"study.arms": (("a", {"data.scale": "x"}, {}),)}, "sets data.scale to 'x'"),
        ({"study.arms": (("a", {}, {"attention.source": "edge"}),)}, "attention.source must be"),
        (
            {
                "study.arms": (("a, 1", BASE, {}), ("a, 2", {}, {})),
                "study.curves": True,
                "study.reference": "",
            },
            "study.curves needs one arm for each .*found 'a, 1' and 'a, 2'",
        ),
    ],
)
def test_senseless_studies_are_refused_before_anything_is_read(
    fields, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(precompute, "run", None)
    if len(fields.get("study.arms", ())) == 1:
        fields = {**fields, "study.reference": ""}
    with pytest.raises(UserError, match=message):
        study.run(configuration(**fields), str(tmp_path))


SHIPPED = [
    attention_study.get_config("sampler"),
    attention_study.get_config("trained"),
    batch_study.get_config(),
]


@pytest.mark.parametrize("config", SHIPPED, ids=lambda config: config.workdir)
def test_shipped_study_is_valid(config):
    checks.validate(config)
    labels = [label for label, *_ in config.study.arms]
    assert config.study.reference in ("", *labels) and len(set(labels)) == len(labels)
    arms = study.arms_of(config, Run("."))
    for arm in arms:
        checks.validate(arm.trained)
        checks.validate(arm.sampled)
    if config.study.curves:  # every curve has its arms at one number of steps in common
        assert sum(arm.trained.train.steps == 500 for arm in arms) == len(arms) / 3


def test_unknown_stage_lists_the_known():
    with pytest.raises(ValueError, match="sampler, trained.*'all'"):
        attention_study.get_config("all")
