"""Mode sweep: the map against its controls on whole pictures, resumed by picture."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from yoda_jax.configuration import restore
from yoda_jax.errors import UserError
from yoda_jax.evaluation.whole import Results
from yoda_jax.jobs import sweep
from yoda_jax.runs import Run

pytestmark = pytest.mark.slow
RUN = Path(__file__).parents[1] / "golden/run_before_renaming"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    workdir = shutil.copytree(RUN, folder / "run")
    for name, picture in (
        ("cat", data.chelsea()),
        ("cup", data.coffee()),
        ("man", data.astronaut()),
    ):
        (folder / "in").mkdir(exist_ok=True)
        Image.fromarray(picture[100:170, 120:190]).save(folder / f"in/{name}.png")
    config = restore.configuration(Run(workdir))
    config.data.train = config.data.eval = ""
    config.data.train, config.data.holdout = f"folder:{folder / 'in'}", 2
    config.sweep.steps, config.sweep.size, config.sweep.bounds = (4, 2), 64, (0.3,)
    sweep.run(config, str(workdir))
    return workdir, config


def test_each_chain_has_its_controls(swept, capsys):
    workdir, _ = swept
    rows = Results(Run(workdir).folder / "sweep").rows(("cat.png", "cup.png", "man.png"), {})
    assert len(rows) == 1 + 2 * 4 and all(len(pictures) == 2 for pictures in rows.values())
    for steps in (4, 2):
        label = f"ddpm, {steps} steps, l=0.3"
        for name, figures in rows[f"map: {label}"].items():
            assert 0 < figures["evaluations"] < steps
            dense = rows[f"dense: ddpm, {steps} steps"][name]
            assert dense["evaluations"] == steps
            for control in ("fewer steps", "constant"):
                cost = rows[f"{control}: as {label}"][name]["evaluations"]
                assert abs(cost - figures["evaluations"]) <= 0.5
    assert rows["bicubic"][name]["psnr"] > rows["dense: ddpm, 4 steps"][name]["psnr"]
    assert "PSNR-Y dB, border" in (workdir / "sweep/report.html").read_text()
    assert np.array(Image.open(workdir / "sweep/curves.png")).std() > 10


def test_what_is_there_is_not_made_again(swept):
    workdir, config = swept
    files = {p: p.stat().st_mtime_ns for p in (workdir / "sweep").glob("*/*.json")}
    gone = next(iter(files))
    gone.unlink()
    sweep.run(config, str(workdir))
    changed = [p for p, then in files.items() if p.stat().st_mtime_ns != then]
    assert changed == [gone]


def test_a_network_without_diffusion_has_nothing_to_sweep(swept):
    workdir, config = swept
    other = config.copy_and_resolve_references()
    other.model.name = "rrdb"
    with pytest.raises(UserError, match="needs a network that diffuses"):
        sweep.run(other, str(workdir))
