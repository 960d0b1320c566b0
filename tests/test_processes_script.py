"""launch/processes.sh runs a job as processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_line import ROOT, TINY, wait_until
from PIL import Image
from skimage import data

pytestmark = pytest.mark.slow
JOB = ["--config=configs/demo.py", "--mode=train", *TINY]


def script(folder, count, *arguments, job=JOB):
    workdir = f"--workdir={folder / 'a run'}"
    return subprocess.Popen(
        ["bash", "launch/processes.sh", str(count), *job, workdir, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "LOGS": str(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_two_processes_train_and_the_first_one_speaks(tmp_path):
    process = script(tmp_path, 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "process 0 of 2" in output and "| sr3 + YODA" in output
    assert "process 1 of 2" in (tmp_path / "process-1.log").read_text()


def test_two_processes_share_out_the_pictures_of_a_folder(tmp_path):
    shutil.copytree(ROOT / "tests/golden/run_before_renaming", tmp_path / "a run")
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(data.chelsea()[100:110, 120:132]).save(tmp_path / f"in/{name}.png")
    arguments = ["--steps=2", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    process = script(tmp_path, 2, *arguments, job=["--mode=upscale"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    made = {path.name: np.array(Image.open(path)) for path in (tmp_path / "out").iterdir()}
    assert sorted(made) == ["a_4x.png", "b_4x.png", "c_4x.png"]
    assert all((picture == made["a_4x.png"]).all() for picture in made.values())
    log = (tmp_path / "process-1.log").read_text()
    assert "b_4x.png" in log and "a_4x.png" not in log and "b_4x.png" not in output


def test_two_processes_share_out_the_pictures_of_a_set(tmp_path):
    shutil.copytree(ROOT / "tests/golden/run_before_renaming", tmp_path / "a run")
    (tmp_path / "in").mkdir()
    for name, left in (("a", 100), ("b", 110), ("c", 120)):
        Image.fromarray(data.chelsea()[100:140, left : left + 40]).save(tmp_path / f"in/{name}.png")
    arguments = [f"--config.eval.sets=S:folder:{tmp_path / 'in'}"]
    arguments.append("--config.diffusion.sampling_steps=2")
    process = script(tmp_path, 2, *arguments, job=["--mode=eval"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = json.loads((tmp_path / "a run/eval/sets/metrics.json").read_text())
    assert found["sets"]["S"]["pictures"] == 3 and "S, means" in output
    assert "S, means" not in (tmp_path / "process-1.log").read_text()


def test_a_signal_is_passed_on_and_the_status_too(tmp_path):
    process = script(
        tmp_path, 2, "--config.train.steps=2000", "--config.train.checkpoint_every=2000"
    )
    log = tmp_path / "process-1.log"
    wait_until(lambda: log.exists() and "[20]" in log.read_text(), process.poll)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "what was trained is saved" in output


def test_a_wrong_count_is_one_sentence(tmp_path):
    process = script(tmp_path, "two")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "COUNT is a whole number, found two" in output
