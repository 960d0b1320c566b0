"""Processes that share a job out do what one process with all devices does."""

import json
import os
import subprocess

import numpy as np
import pytest
from command_line import ROOT, TINY, command, free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from yoda_jax.data.records import Records

pytestmark = pytest.mark.slow
JOB = ["--config=configs/demo.py", "--mode=train", *TINY, "--config.train.log_every=1"]
JOB += ["--config.train.eval_every=4", "--config.eval.batch_size=4", "--config.eval.pictures=5"]
FSDP = ("--config.train.sharding=fsdp",)
# Processes and devices of each, which are four in all.
LAYOUTS = {"1 x 4": (1, 4, ()), "2 x 2": (2, 2, ()), "4 x 1": (4, 1, ()), "FSDP": (2, 2, FSDP)}
SHARED = [name for name in LAYOUTS if name != "1 x 4"]


def start(devices, *arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
    )


def together(count, devices, *arguments):
    """The output of each of so many processes that do a job."""
    address = f"--distributed=127.0.0.1:{free_port()},{count}"
    several = [[f"{address},{i}"] if count > 1 else [] for i in range(count)]
    processes = [start(devices, *arguments, *where) for where in several]
    try:
        outputs = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), outputs
    return outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(workdir, output of each process) of each layout."""
    folder, runs = tmp_path_factory.mktemp("layouts"), {}
    for name, (count, devices, options) in LAYOUTS.items():
        outputs = together(count, devices, *JOB, f"--workdir={folder / name}", *options)
        runs[name] = folder / name, outputs
    return runs


def curve(workdir):
    """The logged values of each step, by name."""
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [float(make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in ("loss", "grad_norm", "mask_fraction", "y0_offset_r")
    }


@pytest.mark.parametrize("layout", SHARED)
def test_the_training_curve_is_that_of_one_process(runs, layout):
    expected, found = (curve(runs[name][0]) for name in ("1 x 4", layout))
    assert len(expected["loss"]) == 8
    for name, values in expected.items():
        # The gradient's norm and the offset are sums of many terms in another order.
        tolerance = 1e-6 if name in ("loss", "mask_fraction") else 1e-5
        assert found[name] == pytest.approx(values, rel=tolerance, abs=1e-7), name


@pytest.mark.parametrize("layout", SHARED)
def test_the_figures_are_those_of_one_process(runs, layout):
    one, shared = (
        json.loads((runs[name][0] / "eval/metrics.json").read_text())["rows"]
        for name in ("1 x 4", layout)
    )
    assert one.keys() == shared.keys()
    for label, values in one.items():
        for metric, figure in values.items():
            # An 8-bit picture may round the other way where two sums differ in their last bit.
            np.testing.assert_allclose(
                shared[label][metric]["mean"],
                figure["mean"],
                rtol=1e-3,
                atol=1e-4,
                err_msg=f"{label} {metric}",
            )


@pytest.mark.parametrize("layout", SHARED)
def test_the_first_process_speaks_for_all(runs, layout):
    (workdir, outputs), (one, _) = runs[layout], runs["1 x 4"]
    assert f"process 1 of {len(outputs)}, 4 cpu devices" in outputs[1][1]
    assert "| sr3 + YODA" in outputs[0][0] and not any("|" in out for out, _ in outputs[1:])
    assert (workdir / "eval/sheet.png").exists() and (workdir / "eval/per_image.csv").exists()
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
    names = [sorted(p.name for p in (w / "records/train").iterdir()) for w in (workdir, one)]
    assert names[0] == names[1]


def test_an_encoder_makes_the_maps_that_it_makes_in_one_process(tmp_path):
    """Its parameters lie on the devices of all processes, each of which makes maps for itself."""
    squares = [*TINY, "--config.data.train=samples:photos", "--config.data.holdout=1"]
    rrdb = ["--config=configs/rrdb_photos_x4.py", *squares, "--config.model.blocks=2"]
    rrdb += ["--config.train.steps=1", "--config.train.eval_every=0", "--config.eval.pictures=1"]
    together(1, 1, *rrdb, f"--workdir={tmp_path / 'rrdb'}")
    job = ["--config=configs/photos_x4.py", *squares, "--config.attention.source=encoder"]
    job += [f"--config.model.encoder={tmp_path / 'rrdb'}", "--mode=precompute"]
    for name, count in (("one", 1), ("two", 2)):
        together(count, 2 // count, *job, f"--workdir={tmp_path / name}")
    one, two = (Records(tmp_path / name / "records/train") for name in ("one", "two"))
    assert len(one) == len(two) > 0
    for i in range(len(one)):
        # A value may round the other way.
        np.testing.assert_allclose(one[i]["attention"], two[i]["attention"].astype(int), atol=1)


def test_a_wrong_address_is_one_sentence(tmp_path):
    process = start(1, *JOB, f"--workdir={tmp_path / 'run'}", "--distributed=here")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--distributed must be none, auto or HOST:PORT,COUNT,INDEX" in errors.splitlines()[-1]
