"""launch/slurm.sbatch on a real SLURM of two nodes: trained, requeued, preempted, finished."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import slurm
from command_line import ROOT, TINY, free_port, run, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason=f"not on this machine: {slurm.missing()}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons need root"),
]
JOB = ["--config=configs/demo.py", "--mode=train", *TINY]
JOB += ["--config.train.steps=600", "--config.train.checkpoint_every=600"]
TWO = ["--nodes=2", "--ntasks=2", f"--chdir={ROOT}"]


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm.cluster(Path(folder)) as made:
        yield made


@pytest.fixture(scope="module")
def submit(cluster, tmp_path_factory):
    """Submits launch/slurm.sbatch with a job's arguments: (its number, its log)."""
    logs = tmp_path_factory.mktemp("logs")

    def submit(*arguments):
        address = f"127.0.0.1:{free_port()}"
        log = logs / f"{len(list(logs.iterdir()))}.log"
        number = cluster.submit(
            *TWO,
            f"--output={log}",
            str(ROOT / "launch/slurm.sbatch"),
            *arguments,
            PYTHON=sys.executable,
            JAX_NUM_CPU_DEVICES="1",
            JAX_COORDINATOR_ADDRESS=address,  # the nodes' names have no addresses here
            JAX_COORDINATOR_BIND_ADDRESS=address,
        )
        return number, log

    return submit


def wait_for(log, text, times=1):
    def said():
        return log.read_text() if log.exists() else ""

    wait_until(lambda: said().count(text) >= times, said)


def means(workdir):
    rows = json.loads((workdir / "eval/metrics.json").read_text())["rows"]
    return {row: {m: figure["mean"] for m, figure in r.items()} for row, r in rows.items()}


def test_a_job_that_is_requeued_and_preempted_ends_like_an_undisturbed_one(
    cluster, submit, tmp_path
):
    job, log = submit(*JOB, f"--workdir={tmp_path / 'run'}")
    wait_for(log, "[20]")
    cluster.ask("scontrol", "requeue", job)
    cluster.wait(job, "RUNNING")
    wait_for(log, "resumed at step", times=2)
    trained = log.read_text().count("loss=")
    wait_for(log, "loss=", times=trained + 10)
    urgent = cluster.submit(
        *TWO, "--partition=high", "--output=/dev/null", "--wrap=sleep 3", "--exclusive"
    )
    cluster.wait(urgent, "COMPLETED")
    done = cluster.wait(job, "COMPLETED", "FAILED")
    text = log.read_text()
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "2"), text
    assert text.count("what was trained is saved") >= 2, text
    assert run(*JOB, f"--workdir={tmp_path / 'undisturbed'}").returncode == 0
    ours, others = means(tmp_path / "run"), means(tmp_path / "undisturbed")
    for row, figures in ours.items():
        assert figures == pytest.approx(others[row], rel=1e-2, abs=1e-3), row


def test_a_job_whose_time_is_nearly_over_saves_and_is_queued_again(cluster, submit, tmp_path):
    job, log = submit(*JOB, f"--workdir={tmp_path}")
    wait_for(log, "[20]")
    cluster.ask("scancel", "--signal=TERM", f"{job}.0")  # to the step alone, as --signal does
    done = cluster.wait(job, "COMPLETED")  # in between it counts as FAILED until it is queued again
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1"), log.read_text()


def test_a_users_mistake_is_not_queued_again(cluster, submit, tmp_path):
    job, log = submit(*JOB, f"--workdir={tmp_path}", "--config.train.batch_size=0")
    done = cluster.wait(job, "COMPLETED", "FAILED")
    assert (done["JobState"], done["Restarts"]) == ("FAILED", "0")
    assert "--config.train.batch_size must be at least 1, found 0" in log.read_text()
