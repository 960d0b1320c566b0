"""Jobs that are told to stop, in processes of their own: what they save, say and go on with."""

import os
import re
import signal
import subprocess
import threading
import time

import pytest
from command_line import ROOT, TINY, command, free_port, run, wait_until

pytestmark = pytest.mark.slow
DEMO = ["--config=configs/demo.py", *TINY]
LONG = [*DEMO, "--mode=train", "--config.train.steps=400", "--config.train.checkpoint_every=400"]
SAVED = "yoda_jax: stopped by a signal; what was trained is saved"
KEPT = "yoda_jax: stopped by a signal; what was done is kept"


class Job:
    """A job whose log can be waited for."""

    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env={**os.environ, **environment},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.log = ""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stderr:
            self.log += line

    def wait_for(self, text):
        wait_until(lambda: text in self.log or self.process.poll() is not None, lambda: self.log)
        assert text in self.log, self.log

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self

    def status(self, seconds=60):
        try:
            return self.process.wait(timeout=seconds)
        finally:
            self.process.kill()
            self.thread.join()


def exported(workdir, output):
    result = run("--mode=export", f"--workdir={workdir}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    return output.with_name(f"{output.name}.safetensors").read_bytes()


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of a training that nobody stopped."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    result = run(*LONG, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return exported(workdir, workdir / "weights")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_training_goes_on_to_the_same_bits(number, undisturbed, tmp_path):
    before = signal.signal(number, signal.SIG_DFL)  # nohup and `&` of a script ignore some
    try:
        job = Job(*LONG, f"--workdir={tmp_path}")
    finally:
        signal.signal(number, before)
    job.wait_for("[20]")
    assert job.stop(number).status() == 75
    assert SAVED in job.log.splitlines()[-1]
    (step,) = steps(tmp_path)
    assert 20 < step < 400 and f"stopped at step {step} of 400" in job.log
    result = run(*LONG, f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert exported(tmp_path, tmp_path / "weights") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["nohup", "in background"])
def test_what_was_ignored_at_the_start_stays_so(number, tmp_path):
    before = signal.signal(number, signal.SIG_IGN)  # as child processes inherit it
    try:
        settings = ["--config.train.steps=100", "--config.train.checkpoint_every=100"]
        job = Job(*DEMO, "--mode=train", f"--workdir={tmp_path}", *settings)
    finally:
        signal.signal(number, before)
    job.wait_for("[20]")
    assert job.stop(number).status(200) == 0, job.log


def test_a_job_that_compiles_stops_at_once(tmp_path):
    job = Job(*LONG, f"--workdir={tmp_path}", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"))
    job.wait_for("compiling the step")
    start = time.monotonic()
    assert job.stop().status() == 75
    assert time.monotonic() - start < 5 and KEPT in job.log.splitlines()[-1]
    assert steps(tmp_path) == []


def test_a_stop_in_an_evaluation_on_the_way_saves_the_step(tmp_path):
    settings = ["--config.train.eval_every=4", "--config.diffusion.sampling_steps=2000"]
    job = Job(*DEMO, "--mode=train", f"--workdir={tmp_path}", *settings)
    job.wait_for("[2]")
    time.sleep(3)
    assert job.stop().status() == 75
    assert steps(tmp_path) == [4] and SAVED in job.log
    assert "held-out examples:" not in job.log
    result = run(*DEMO, "--mode=train", f"--workdir={tmp_path}")
    assert result.returncode == 0 and "resumed at step 4" in result.stderr, result.stderr


def test_a_precomputation_stops_and_goes_on_at_the_next_shard(tmp_path):
    settings = [*DEMO, "--mode=precompute", "--config.data.pictures_per_shard=1"]
    settings += [f"--workdir={tmp_path}", "--config.attention.source=sift"]
    job = Job(*settings)
    shard = tmp_path / "records/train/yoda-train.tfrecord-00000-of-00005"
    wait_until(shard.exists, lambda: job.log)
    written = shard.stat().st_mtime_ns
    assert job.stop().status() == 75 and KEPT in job.log
    assert not (tmp_path / "records/train/manifest.json").exists()
    assert run(*settings).returncode == 0
    assert shard.stat().st_mtime_ns == written


def test_a_comparison_stops_between_its_halves(tmp_path):
    settings = [*DEMO, "--mode=compare", f"--workdir={tmp_path}"]
    job = Job(*settings)
    job.wait_for("training with the mask")
    assert job.stop().status() == 75 and KEPT in job.log
    result = run(*settings)
    assert result.returncode == 0, result.stderr
    assert "base has its 8 steps already" in result.stderr


@pytest.mark.parametrize("told", [(1,), (0,), (0, 1)], ids=str)
def test_two_processes_of_which_some_are_told_stop_at_the_same_step(told, tmp_path):
    def start():
        port = free_port()
        return [
            Job(
                *LONG,
                f"--workdir={tmp_path}",
                f"--distributed=127.0.0.1:{port},2,{index}",
                JAX_NUM_CPU_DEVICES="1",
            )
            for index in (0, 1)
        ]

    jobs = start()
    jobs[0].wait_for("[20]")
    for index in told:
        jobs[index].stop()
    assert [job.status() for job in jobs] == [75, 75], jobs[0].log + jobs[1].log
    (step,) = steps(tmp_path)
    for job in jobs:
        assert re.search(rf"stopped at step {step} of 400", job.log) and SAVED in job.log
    if told == (1,):  # and all of them go on
        jobs = start()
        assert [job.status(200) for job in jobs] == [0, 0], jobs[0].log
        assert f"resumed at step {step}" in jobs[1].log


def test_two_processes_stop_while_they_compile(tmp_path):
    port = free_port()
    jobs = [
        Job(
            *LONG,
            f"--workdir={tmp_path}",
            f"--distributed=127.0.0.1:{port},2,{index}",
            JAX_NUM_CPU_DEVICES="1",
            JAX_COMPILATION_CACHE_DIR=str(tmp_path / f"cache {index}"),
        )
        for index in (0, 1)
    ]
    jobs[1].wait_for("compiling the step")
    jobs[1].stop()
    assert [job.status() for job in jobs] == [75, 75], jobs[0].log + jobs[1].log
