"""Four devices as one process, two or four: the same training and the same figures."""

import json
import os
import subprocess

import pytest
from command_line import ROOT, TINY, command, free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

pytestmark = pytest.mark.slow
JOB = ["--config=configs/demo.py", "--mode=train", *TINY, "--config.train.log_every=1"]
JOB += ["--config.train.eval_every=4", "--config.eval.batch_size=4", "--config.eval.pictures=5"]
LAYOUTS = {"1 x 4": (1, 4, ()), "2 x 2": (2, 2, ()), "4 x 1": (4, 1, ())}
LAYOUTS["2 x 2, FSDP"] = (2, 2, ("--config.train.sharding=fsdp",))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdir of each layout."""
    folder, workdirs = tmp_path_factory.mktemp("layouts"), {}
    for name, (count, devices, options) in LAYOUTS.items():
        workdirs[name], address = folder / name, f"127.0.0.1:{free_port()},{count}"
        processes = [
            subprocess.Popen(
                command(
                    *JOB,
                    *options,
                    f"--workdir={workdirs[name]}",
                    *([f"--distributed={address},{index}"] if count > 1 else ()),
                ),
                cwd=ROOT,
                env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for index in range(count)
        ]
        errors = [process.communicate(timeout=400)[1] for process in processes]
        assert not any(process.returncode for process in processes), errors
    return workdirs


def curve(workdir):
    """The logged values of each step, by name."""
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [float(make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in ("loss", "grad_norm", "mask_fraction", "y0_offset_r")
    }


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1 x 4"])
def test_the_training_curve_is_that_of_one_process(runs, layout):
    expected, found = curve(runs["1 x 4"]), curve(runs[layout])
    assert len(expected["loss"]) == 8
    for name, values in expected.items():
        # The gradient's norm and the offset are sums of many terms in another order.
        tolerance = 1e-6 if name in ("loss", "mask_fraction") else 1e-5
        assert found[name] == pytest.approx(values, rel=tolerance, abs=1e-7), name


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1 x 4"])
def test_the_figures_are_those_of_one_process(runs, layout):
    rows = [
        json.loads((runs[n] / "eval/metrics.json").read_text())["rows"] for n in ("1 x 4", layout)
    ]
    for row, figures in rows[0].items():
        for metric, figure in figures.items():
            # An 8-bit picture may round the other way where two sums differ in their last bit.
            assert rows[1][row][metric]["mean"] == pytest.approx(
                figure["mean"], rel=1e-3, abs=1e-4
            ), f"{row} {metric}"
