"""launch/processes.sh runs a job as processes of this machine."""

import os
import signal
import subprocess
import sys

import pytest
from command_line import ROOT, TINY, wait_until

pytestmark = pytest.mark.slow
JOB = ["--config=configs/demo.py", "--mode=train", *TINY]


def script(folder, count, *arguments):
    return subprocess.Popen(
        [
            "bash",
            "launch/processes.sh",
            str(count),
            *JOB,
            f"--workdir={folder / 'a run'}",
            *arguments,
        ],
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
