"""Whole jobs as a user runs them: trained, killed, resumed, evaluated, compared."""

import json
import re
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from command_line import ROOT, TINY, command, run
from ml_collections import config_flags
from PIL import Image

from yoda_jax.configuration import build, inference, restore
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow
TRAIN = ["--config=configs/demo.py", "--mode=train", *TINY]


def last_state(workdir):
    """The newest state of a run, on the first device."""
    config = restore.configuration(Run(workdir))
    _, abstract = build.state(config, inference.method(config), sharding.make_mesh())
    return Checkpoints(Run(workdir).checkpoints).restore(abstract)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed without warning once its first checkpoint is on disk; (workdir, last step)."""
    workdir = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(
        command(*TRAIN, "--config.train.steps=1000000", f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 240
    while not (workdir / "checkpoints" / "4").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return workdir, Checkpoints(workdir / "checkpoints").latest()


@pytest.fixture(scope="module")
def resumed(killed):
    workdir, step = killed
    done = run(*TRAIN, f"--config.train.steps={step + 4}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, step, done


@pytest.fixture(scope="module")
def straight(killed, tmp_path_factory):
    """The same number of steps in one go."""
    _, step = killed
    workdir = tmp_path_factory.mktemp("straight")
    done = run(
        *TRAIN,
        f"--config.train.steps={step + 4}",
        f"--workdir={workdir}",
        "--config.train.eval_every=4",
        "--config.train.eval_pictures=2",
        "--config.train.keep_checkpoints=1",
        "--config.train.profile_at=2",
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_killed_run_goes_on_where_it_was_bit_for_bit(resumed, straight):
    workdir, step, done = resumed
    assert f"resumed at step {step} of {step + 4}" in done.stderr
    a, b = last_state(workdir), last_state(straight[0])
    assert int(a.step) == int(b.step) == step + 4
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_evaluation_that_a_stop_cut_is_made_up_for(resumed):
    """The checkpoint has no figures, although its step was one of evaluation."""
    workdir, step, _ = resumed
    arguments = (f"--config.train.eval_every={step + 4}", "--config.train.eval_pictures=2")
    done = run(*TRAIN, *arguments, f"--config.train.steps={step + 5}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    log = done.stderr
    assert 0 < log.index(f"step {step + 4}, 2 held-out examples: psnr") < log.index("checkpoint of")


def test_the_run_tells_what_it_did(straight):
    workdir, done = straight
    assert "waited for input" in done.stderr and "y0_offset_r" in done.stderr
    assert "steps/s" in done.stderr and "ETA" in done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    labels = [line.split("|")[1].strip().rpartition(", step")[0] for line in table[3:4]]
    assert "bicubic" in table[2] and labels == ["sr3 + YODA, t by area"]
    assert "minus bicubic" in table[4] and len(table) == 7
    assert "step 4, 2 held-out examples: psnr" in done.stderr
    assert "3 held-out examples of 2 pictures, 4x to 32x32" in done.stdout
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert metrics["rows"]["bicubic"]["diffused"]["mean"] == 0
    assert len((workdir / "eval" / "per_image.csv").read_text().splitlines()) == 1 + 2 * 3
    with Image.open(workdir / "eval" / "sheet.png") as sheet:
        assert sheet.height > 2 * 128
    assert "<td>bicubic</td>" in (workdir / "eval" / "report.html").read_text()
    assert list(workdir.glob("plugins/profile/*/*"))
    assert not list(workdir.rglob("*.part"))


def test_tensorboard_gets_figures_configuration_and_pictures(straight):
    found = {}
    for path in straight[0].glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    assert {
        "loss",
        "grad_norm",
        "mask_fraction",
        "y0_offset_g",
        "input_wait",
        "steps_per_sec",
        "config",
        "parameters",
        *(f"eval/{metric}" for metric in ("psnr", "ssim", "lpips", "colour_shift")),
    } <= found.keys()
    assert found["config"] == [0] and 4 in found["samples"] and 2 in found["loss"]
    assert found["eval/lpips"] == found["samples"]


def test_the_best_checkpoint_by_lpips_is_kept_beside_the_newest(straight):
    found = {}
    for path in straight[0].glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "eval/lpips":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    kept = {int(p.name) for p in (straight[0] / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == {max(found), min(found, key=found.get)}


def test_training_again_has_nothing_to_do(straight):
    workdir, _ = straight
    step = Checkpoints(workdir / "checkpoints").latest()
    before = {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").rglob("*")}
    done = run(*TRAIN, f"--config.train.steps={step}", f"--workdir={workdir}")
    assert done.returncode == 0 and f"has its {step} steps already" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").rglob("*")}


@pytest.mark.parametrize(
    ("mode", "field"), [("eval", "model.features=16"), ("train", "mask.enabled=False")]
)
def test_another_method_does_not_take_the_checkpoint(straight, mode, field):
    workdir, _ = straight
    done = run(*TRAIN, f"--config.{field}", f"--mode={mode}", f"--workdir={workdir}")
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert f"was trained with {field.split('=')[0]}=" in message and "another --workdir" in message


def test_a_finished_run_does_not_pass_for_another(straight):
    workdir, _ = straight
    step = Checkpoints(workdir / "checkpoints").latest()
    done = run(
        *TRAIN,
        f"--config.train.steps={step}",
        "--config.train.learning_rate=1e-2",
        f"--workdir={workdir}",
    )
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert f"has its {step} steps already, trained with train.learning_rate=0.0005" in message


def test_a_run_knows_its_own_configuration(straight):
    """Evaluated without --config, with a field of its own changed, at an older step."""
    workdir, first = straight
    table = (workdir / "eval" / "metrics.json").read_text()
    done = run("--mode=eval", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert json.loads((workdir / "eval/metrics.json").read_text()) == json.loads(table)
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    done = run(
        "--mode=eval",
        f"--workdir={workdir}",
        f"--step={steps[0]}",
        "--config.diffusion.sampling_steps=2",
        "--config.eval.name=short",
    )
    assert done.returncode == 0, done.stderr
    assert f"step {steps[0]}" in done.stdout and "2 DDPM steps" in done.stdout
    assert (workdir / "short" / "metrics.json").exists()
    done = run("--mode=eval", f"--workdir={workdir}", "--step=3")
    assert done.returncode == 2 and "3" in done.stderr.strip().splitlines()[-1]


def test_a_run_from_before_fields_were_renamed_goes_on(tmp_path):
    """It was made before data.border became data.resampling, and before train.best."""
    workdir = tmp_path / "run"
    shutil.copytree(ROOT / "tests/golden/run_before_renaming", workdir)
    before = last_state(workdir)
    done = run("--mode=eval", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "sr3 + YODA, t by area, step 4" in done.stdout
    fields = json.loads((workdir / "config.json").read_text())
    same = [
        f"--config.{group}.{field}={tuple(v) if isinstance(v, list) else v}"
        for group, field in (
            *(("data", f) for f in ("hr_size", "stride", "patch", "pictures_per_shard")),
            *(("attention", f) for f in ("source", "input_size", "cell")),
            *(("model", f) for f in ("features", "multipliers", "groups")),
            *(("train", f) for f in ("batch_size", "checkpoint_every", "log_every")),
            *(("eval", f) for f in ("pictures", "batch_size", "sheet_pictures")),
            ("diffusion", "sampling_steps"),
        )
        for v in [fields[group][field]]
    ]
    done = run(
        *("--config=configs/demo.py", "--mode=train", *same, "--config.train.steps=6"),
        f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    assert "resumed at step 4 of 6" in done.stderr
    after = last_state(workdir)
    assert (int(before.step), int(after.step)) == (4, 6)
    assert json.loads((workdir / "config.json").read_text())["data"]["resampling"] == "pil"


def test_a_diverging_run_stops_with_the_step_and_keeps_what_was_saved(tmp_path, straight):
    workdir = tmp_path / "run"
    shutil.copytree(straight[0], workdir)
    first = int(last_state(workdir).step)
    done = run(
        *TRAIN,
        f"--config.train.steps={first + 8}",
        "--config.train.learning_rate=1e30",
        "--config.train.warmup_steps=0",
        f"--workdir={workdir}",
    )
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    found = re.search(r"Step (\d+) has the loss .*(nan|inf), expected", message)
    assert first + 1 < int(found[1]) <= first + 8
    state = last_state(workdir)
    assert first <= state.step < int(found[1])
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()
    # The message's own advice works.
    done = run(
        *TRAIN,
        f"--config.train.steps={first + 4}",
        "--config.train.clip_norm=1",
        "--config.train.weight_decay=0.01",
        "--config.train.warmup_steps=0",
        f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    assert int(last_state(workdir).step) >= first + 4


def test_compare_has_the_four_rows_and_the_model_of_the_package(tmp_path, straight):
    done = run(
        "--config=configs/demo.py",
        *TINY,
        "--config.train.steps=2",
        f"--workdir={tmp_path}",
        f"--config.data.records={straight[0] / 'records'}",
    )
    assert done.returncode == 0, done.stderr
    table = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    labels = [row[1].strip() for row in table]
    assert labels[2:6] == ["bicubic", "base", "base + mask", "YODA, t by area"]
    assert labels[6] == "photos_x4, 20 steps"
    assert labels[7] == "minus base + mask" and labels[9:] == ["bicubic", "base", *labels[5:7]]
    header = [cell.strip() for cell in table[0]]
    for metric in ("PSNR dB", "SSIM", "LPIPS", "colour shift", "diffused"):
        assert metric in header
    base = Checkpoints(tmp_path / "base" / "checkpoints")
    assert base.latest() == Checkpoints(tmp_path / "yoda" / "checkpoints").latest() == 2


def test_config_flags_know_every_variant():
    for variant in ("16_64", "16_128", "64_256", "64_512"):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        values(["", f"--config={ROOT}/configs/sr3_ffhq.py:{variant}"])
        assert values.config.data.hr_size == int(variant.split("_")[1])
