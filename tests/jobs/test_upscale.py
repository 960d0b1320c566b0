"""Mode upscale: a picture or a folder to larger ones, and nothing lost by what goes wrong."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image
from skimage import data

from yoda_jax.errors import UserError
from yoda_jax.jobs import export_weights, upscale
from yoda_jax.upscaler import Upscaler, configuration_of

RUN = Path(__file__).parents[1] / "golden/run_before_renaming"
CAT, CUP = data.chelsea()[100:110, 120:132], data.coffee()[100:110, 120:130, 0]
UNSET = dict.fromkeys(("step", "quality", "trajectory"))


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "in"
    (folder / "inside").mkdir(parents=True)
    Image.fromarray(CAT).save(folder / "cat.png")
    Image.fromarray(CUP).save(folder / "inside/cup.png")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return shutil.copytree(RUN, tmp_path_factory.mktemp("upscale") / "run")


def upscaled(workdir, source, target, **options):
    config = configuration_of(workdir)
    given = UNSET | {"sampling": {"steps": 2}} | options
    upscale.run(config, str(workdir), str(source), target and str(target), **given)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def test_a_folder_keeps_its_shape_and_what_is_there_stays(workdir, album, tmp_path, capsys):
    upscaled(workdir, album, tmp_path / "out")
    assert names(tmp_path / "out") == ["cat_4x.png", "inside/cup_4x.png"]
    cup = Image.open(tmp_path / "out/inside/cup_4x.png")
    assert (cup.mode, cup.size) == ("L", (40, 40))
    expected = Upscaler.load(workdir)(CAT, steps=2)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out/cat_4x.png")), expected)
    cup.close()
    (tmp_path / "out/cat_4x.png").write_text("mine")
    upscaled(workdir, album, tmp_path / "out")
    assert (tmp_path / "out/cat_4x.png").read_text() == "mine"
    assert capsys.readouterr().out.count("is there already and stays") == 2


def test_a_bad_picture_is_named_and_the_others_go_on(workdir, album, tmp_path):
    (album / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(
        UserError, match=r"1 of 3 pictures could not be up-scaled, first .*bad\.png"
    ):
        upscaled(workdir, album, tmp_path / "out")
    assert names(tmp_path / "out") == ["cat_4x.png", "inside/cup_4x.png"]


def test_pictures_of_one_name_get_two(workdir, album, tmp_path):
    Image.fromarray(CAT).save(album / "cat.jpg")
    upscaled(workdir, album, tmp_path / "out")
    assert names(tmp_path / "out") == ["cat.jpg_4x.png", "cat.png_4x.png", "inside/cup_4x.png"]


def test_a_picture_goes_where_its_output_says(workdir, album, tmp_path):
    upscaled(workdir, album / "cat.png", tmp_path / "out/large.jpg", quality=40)
    upscaled(workdir, album / "cat.png", tmp_path / "out")
    assert names(tmp_path / "out") == ["cat_4x.png", "large.jpg"]
    assert Image.open(tmp_path / "out/large.jpg").format == "JPEG"


def test_without_an_output_results_lie_beside_the_pictures(workdir, album):
    upscaled(workdir, album, None)
    upscaled(workdir, album / "cat.png", None)
    expected = ["in/cat.png", "in/cat_4x.png", "in/inside/cup.png"]
    assert names(album.parent) == [*expected, "in_4x/cat_4x.png", "in_4x/inside/cup_4x.png"]
    dotted = album.rename(album.with_name("in.2024"))
    upscaled(workdir, dotted, None)
    assert (album.parent / "in.2024_4x/inside/cup_4x.png").exists()


def test_results_inside_are_no_pictures_and_low_resolution_is_what_is_wanted(workdir, album):
    (album / "inside").rename(album / "lr")
    (album / "hr").mkdir()
    (album / "cat.png").rename(album / "hr/cat.png")
    for _ in range(2):
        upscaled(workdir, album, album / "large")
    assert names(album / "large") == ["hr/cat_4x.png", "lr/cup_4x.png"]
    upscaled(workdir, album / "hr", album)  # above the pictures is beside them
    assert (album / "cat_4x.png").exists()
    for _ in range(2):
        upscaled(workdir, album / "hr", album / "hr")
    assert names(album / "hr") == ["cat.png", "cat_4x.png"]


def test_the_chain_as_a_film(workdir, album, tmp_path):
    film = tmp_path / "film.gif"
    upscaled(
        *(workdir, album / "cat.png", tmp_path / "out"),
        trajectory=str(film),
        sampling={"steps": 4, "lower_bound": 1.0},
    )
    frames = Image.open(film)
    assert (frames.n_frames, frames.size) == (4, (3 * 48, 40))
    with pytest.raises(UserError, match="no pixel is diffused"):
        late = {"steps": 4, "late_start": 0.0}
        target = tmp_path / "late.png"
        upscaled(workdir, album / "cat.png", target, trajectory=str(film), sampling=late)
    with pytest.raises(UserError, match="--trajectory is of one picture"):
        upscaled(workdir, album, tmp_path / "other", trajectory=str(film))


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("nothing", "out", "must be a picture or a folder of some, found nothing"),
        ("in/cat.png", "out.gif", r"must end in \.png, .* found '\.gif'"),
        ("in", "out.png", "must be a folder, as --input="),
        ("gs://bucket/in", "out", "must lie on a disk of this machine"),
    ],
)
def test_paths_that_cannot_work_are_refused(source, target, sentence, workdir, album, tmp_path):
    source = source if "://" in source else tmp_path / source
    with pytest.raises(UserError, match=sentence):
        upscaled(workdir, source, tmp_path / target)


@pytest.mark.slow
def test_the_command_with_exported_weights(workdir, album, tmp_path):
    config = configuration_of(workdir)
    export_weights.run(config, str(workdir), str(tmp_path / "weights"))
    arguments = ["--mode=upscale", f"--weights={tmp_path / 'weights.safetensors'}", "--steps=2"]
    arguments += [f"--input={album}", f"--output={tmp_path / 'out'}", "--batch=3", "--seed=0"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "cat.png: 12x10 to 48x40" in done.stderr and "evaluations of a tile" in done.stderr
    made = np.array(Image.open(tmp_path / "out/cat_4x.png"), int)
    expected = Upscaler.load(workdir)(CAT, steps=2)
    assert np.abs(made - expected).max() <= 1  # two devices
    os.remove(tmp_path / "out/cat_4x.png")
    done = run(*arguments[:2], f"--input={album}", f"--output={tmp_path / 'out'}", "--sampler=x")
    assert done.returncode == 2 and "diffusion.sampler must be one of" in done.stderr
