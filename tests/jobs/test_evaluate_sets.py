"""Mode eval on sets of whole pictures: made once, against another run, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from yoda_jax.configuration import restore
from yoda_jax.errors import UserError
from yoda_jax.jobs import evaluate
from yoda_jax.runs import Run

RUN = Path(__file__).parents[1] / "golden/run_before_renaming"
LABEL = "sr3 + YODA, step 4"


def copied(folder):
    workdir = shutil.copytree(RUN, folder)
    config = restore.configuration(Run(workdir))
    config.diffusion.sampling_steps = 2
    return workdir, config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, size, picture in (
        ("a/cat.png", (75, 58), data.chelsea()),
        ("a/cup.png", (64, 64), data.coffee()),
        ("b/woman.png", (64, 64), data.astronaut()),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        cut = picture[100 : 100 + size[1], 120 : 120 + size[0]]
        Image.fromarray(cut).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def evaluated(pictures, tmp_path_factory):
    """Two runs, the second of them sampled otherwise and against the first."""
    found = []
    for name in ("one", "two"):
        workdir, config = copied(tmp_path_factory.mktemp("sets") / name)
        config.eval.sets = f"A:folder:{pictures / 'a'},B:folder:{pictures / 'b'}"
        config.mask.lower_bound = 0.5 if found else 0.0
        against = str(found[0][0]) if found else None
        evaluate.run(config, str(workdir), against=against)
        found.append((workdir, config))
    return found


def figures(workdir):
    return json.loads((workdir / "eval/sets/metrics.json").read_text())["sets"]


@pytest.mark.slow
class TestSets:
    def test_each_set_has_its_rows(self, evaluated):
        found = figures(evaluated[0][0])
        assert {name: of["pictures"] for name, of in found.items()} == {"A": 2, "B": 1}
        for of_set in found.values():
            rows = of_set["rows"]
            assert list(rows)[0] == "bicubic" and len(rows) == 2
            assert (
                rows["bicubic"]["psnr"]["mean"] > 15 and rows["bicubic"]["evaluations"]["mean"] == 0
            )
        lines = (evaluated[0][0] / "eval/sets/per_image.csv").read_text().splitlines()
        assert len(lines) == 1 + 2 * 3
        assert (evaluated[0][0] / "eval/sets/report.html").stat().st_size > 20_000

    def test_pictures_are_cut_to_the_scale_and_kept(self, evaluated):
        workdir, config = evaluated[0]
        (result,) = (workdir / "eval/sets/A").glob("sr3*/cat*.png")
        scale = config.data.scale
        with Image.open(result) as image:
            assert image.size == (75 // scale * scale, 58 // scale * scale)

    def test_what_is_no_longer_asked_for_does_not_count(self, evaluated, pictures, tmp_path):
        workdir, config = copied(tmp_path / "run")
        shutil.copytree(evaluated[0][0] / "eval", workdir / "eval")
        fewer = shutil.copytree(pictures / "a", tmp_path / "a")
        (fewer / "cat.png").unlink()
        config.eval.sets, config.mask.lower_bound = f"A:folder:{fewer}", 0.0
        evaluate.run(config, str(workdir))
        (kept,) = (workdir / "eval/sets/A").glob("sr3*/cup*.png")
        before = kept.stat().st_mtime_ns
        assert figures(workdir)["A"]["pictures"] == 1
        config.attention.power = 2.0
        evaluate.run(config, str(workdir))
        assert kept.stat().st_mtime_ns > before  # another map, another picture

    def test_differences_to_another_run_are_paired(self, evaluated):
        (_, _), (workdir, _) = evaluated
        found = figures(workdir)["A"]
        (pair,) = (name for name in found["differences"] if "minus bicubic" not in name)
        of_runs = found["differences"][pair]
        own, _, other = pair.partition(" minus ")
        apart = found["rows"][own]["psnr"]["mean"] - found["rows"][other]["psnr"]["mean"]
        assert of_runs["psnr"]["mean"] == pytest.approx(apart)
        assert of_runs["evaluations"]["mean"] > 0  # a higher bound

    def test_what_is_there_is_not_made_again(self, evaluated, pictures):
        workdir, config = evaluated[0]
        files = {p: p.stat().st_mtime_ns for p in (workdir / "eval/sets").glob("*/*/*.json")}
        gone = next(p for p in files if "cup" in p.name and "sr3" in str(p))
        gone.unlink()
        evaluate.run(config, str(workdir))
        changed = [p for p, then in files.items() if p.stat().st_mtime_ns != then]
        assert gone in changed and all("cup" in p.name for p in changed)

    def test_a_changed_picture_is_made_again_and_does_not_fit_the_other_run(
        self, evaluated, pictures, tmp_path
    ):
        (one, config), (two, other) = evaluated
        shutil.copytree(pictures / "b", tmp_path / "b")
        name = tmp_path / "b/woman.png"
        picture = np.array(Image.open(name))
        picture[0, 0] ^= 1
        Image.fromarray(picture).save(name)
        changed = other.copy_and_resolve_references()
        changed.eval.sets = f"B:folder:{tmp_path / 'b'}"
        with pytest.raises(UserError, match="--against saw another picture woman.png"):
            evaluate.run(changed, str(two), against=str(one))

    def test_another_run_must_have_been_evaluated(self, evaluated, tmp_path):
        workdir, config = evaluated[0]
        with pytest.raises(UserError, match="found no A in .*evaluate it first"):
            evaluate.run(config, str(workdir), against=str(tmp_path))


def test_a_picture_too_small_for_lpips_is_named(pictures, tmp_path):
    workdir, config = copied(tmp_path / "run")
    (tmp_path / "in").mkdir()
    Image.fromarray(data.coffee()[:31, :90]).save(tmp_path / "in/thin.png")
    config.eval.sets = f"C:folder:{tmp_path / 'in'}"
    with pytest.raises(UserError, match=r"thin.png is of 90x31 pixels, expected at least 32"):
        evaluate.run(config, str(workdir))


def test_against_is_of_whole_pictures(tmp_path):
    workdir, config = copied(tmp_path / "run")
    with pytest.raises(UserError, match="found no --config.eval.sets"):
        evaluate.run(config, str(workdir), against=str(tmp_path))
