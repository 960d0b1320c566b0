"""Two processes with a device each do what one process with two devices does."""

import json
import os
import subprocess

import numpy as np
import pytest
from command_line import ROOT, TINY, command, free_port

pytestmark = pytest.mark.slow
SETTINGS = [
    "--config=configs/demo.py",
    "--mode=train",
    *TINY,
    "--config.train.steps=4",
    "--config.train.eval_every=4",
    "--config.eval.batch_size=4",
    "--config.eval.pictures=5",
]


def start(workdir, devices, *arguments):
    return subprocess.Popen(
        command(*SETTINGS, f"--workdir={workdir}", *arguments),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
    )


def finish(processes):
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(workdir, output of each process) of two processes and of one."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    port = free_port()
    outputs = finish(
        [start(two, 1, f"--distributed=127.0.0.1:{port},2,{index}") for index in (0, 1)]
    )
    return (two, outputs), (one, finish([start(one, 2)]))


def test_the_figures_are_those_of_one_process(runs):
    (two, outputs), (one, _) = runs
    assert "process 1 of 2, 2 cpu devices" in outputs[1][1]
    rows = [json.loads((w / "eval/metrics.json").read_text())["rows"] for w in (two, one)]
    assert rows[0].keys() == rows[1].keys()
    for label, values in rows[0].items():
        for metric, figure in values.items():
            # An 8-bit picture may round the other way where two sums differ in their last bit.
            np.testing.assert_allclose(
                figure["mean"],
                rows[1][label][metric]["mean"],
                rtol=1e-3,
                atol=1e-4,
                err_msg=f"{label} {metric}",
            )


def test_the_first_process_speaks_for_all(runs):
    (two, outputs), (one, _) = runs
    assert "| sr3 + YODA" in outputs[0][0] and "|" not in outputs[1][0]
    assert (two / "eval/sheet.png").exists() and (two / "eval/per_image.csv").exists()
    assert len(list(two.glob("events.out.tfevents.*"))) == 1
    names = [sorted(p.name for p in (w / "records/train").iterdir()) for w in (two, one)]
    assert names[0] == names[1]


def test_a_wrong_address_is_one_sentence(tmp_path):
    process = start(tmp_path / "run", 1, "--distributed=here")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--distributed must be none, auto or HOST:PORT,COUNT,INDEX" in errors.splitlines()[-1]
