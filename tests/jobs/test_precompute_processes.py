"""What one of two real processes cannot do ends both, in a sentence each."""

import os
import subprocess

import numpy as np
import pytest
from command_line import ROOT, TINY, command, free_port
from PIL import Image
from skimage import data

pytestmark = pytest.mark.slow


def test_processes_that_see_other_pictures_end_together(tmp_path):
    for folder, count in (("all", 4), ("some", 3)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            photo = np.roll(data.coffee()[:64, :64], i, axis=0)
            Image.fromarray(photo).save(tmp_path / folder / f"{i}.png")
    port = free_port()
    processes = [
        subprocess.Popen(
            command(
                "--config=configs/demo.py",
                "--mode=precompute",
                *TINY,
                f"--workdir={tmp_path / 'run'}",
                f"--config.data.train=folder:{tmp_path / folder}",
                "--config.data.eval=",
                "--config.data.holdout=1",
                f"--distributed=127.0.0.1:{port},2,{index}",
            ),
            cwd=ROOT,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        )
        for index, folder in enumerate(("all", "some"))
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], said
    assert "yoda_jax: Process 1 could not do its part" in said[0]
    assert "yoda_jax: Process 1 does not see the pictures of folder:" in said[1]
    assert not (tmp_path / "run/records").exists()
