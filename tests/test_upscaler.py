"""`Upscaler`: what goes in comes out larger, and depends on nothing but itself."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import yoda_jax
from yoda_jax.configuration import restore
from yoda_jax.data.degrade import downsample
from yoda_jax.errors import UserError
from yoda_jax.evaluation.whole import Made, WholeMeasure, enlarged
from yoda_jax.jobs import export_weights
from yoda_jax.runs import Run
from yoda_jax.upscaler import Sampling, Upscaler
from yoda_jax.weights.foreign import model_file

RUN = Path(__file__).parent / "golden/run_before_renaming"  # SR3, 4x, squares of 32
PICTURE = data.chelsea()[100:116, 120:142]  # 16 x 22


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(RUN, folder)
    return Upscaler.load(folder)


@pytest.fixture(scope="module")
def expected(upscaler):
    return upscaler(PICTURE, steps=3)


def test_an_array_gives_an_array(expected):
    assert (expected.shape, expected.dtype) == ((64, 88, 3), np.uint8)
    assert yoda_jax.Upscaler is Upscaler


def test_a_picture_a_path_and_a_list_give_the_same(upscaler, expected, tmp_path):
    image = Image.fromarray(PICTURE)
    image.save(tmp_path / "a.png")
    for picture in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        made = upscaler(picture, steps=3)
        assert isinstance(made, Image.Image) and made.mode == "RGB"
        np.testing.assert_array_equal(np.array(made), expected)
    pair = upscaler([PICTURE[:10], PICTURE], steps=3)
    np.testing.assert_array_equal(pair[1], expected)
    assert pair[0].shape == (40, 88, 3)


def test_steps_are_twenty_at_most_unless_told(upscaler):
    config = upscaler.config.copy_and_resolve_references()
    for trained, told, expected in ((100, None, 20), (4, None, 4), (4, 30, 30)):
        config.diffusion.sampling_steps = trained
        other = Upscaler(config, upscaler.params)
        assert other.tiled(Sampling(steps=told)).method.sampling_steps == expected


def test_a_late_start_is_a_constant_map(upscaler):
    late = upscaler(PICTURE, steps=4, late_start=0.5)
    nothing = np.zeros((64, 88, 1), np.uint8)
    constant = upscaler(PICTURE, steps=4, attention=nothing, lower_bound=0.5)
    np.testing.assert_array_equal(late, constant)
    whole = upscaler(PICTURE, steps=4, late_start=1.0)
    np.testing.assert_array_equal(whole, upscaler(PICTURE, steps=4, mask=False))


def test_grey_and_opacity_are_kept(upscaler):
    grey = upscaler(PICTURE[..., 0], steps=1)
    assert grey.shape == (64, 88)
    assert upscaler(Image.fromarray(PICTURE).convert("RGBA"), steps=1).mode == "RGBA"


def test_the_seed_makes_the_noise_and_options_the_chain(upscaler, expected):
    np.testing.assert_array_equal(upscaler(PICTURE, steps=3), expected)
    for options in ({"seed": 1}, {"steps": 2}, {"mask": False}, {"lower_bound": 0.5}):
        assert (upscaler(PICTURE, **{"steps": 3, **options}) != expected).any(), options
    dense = upscaler(PICTURE, steps=3, sparse=False)
    np.testing.assert_array_equal(dense, expected)


def test_attention_may_be_given(upscaler, expected):
    attention = upscaler.attention(PICTURE)
    assert attention.max() > 200 > attention.min()
    np.testing.assert_array_equal(upscaler(PICTURE, attention=attention, steps=3), expected)
    full = np.full((64, 88, 1), 255, np.uint8)
    base = upscaler(PICTURE, mask=False, steps=3)
    np.testing.assert_array_equal(upscaler(PICTURE, attention=full, steps=3), base)
    with pytest.raises(UserError, match=r"result's shape \(64, 88, 1\), found \(8, 8, 1\)"):
        upscaler(PICTURE, attention=full[:8, :8])


def test_threads_may_share_one(upscaler, expected):
    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(lambda _: upscaler(PICTURE, steps=3), range(4)):
            np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampler": "euler"}, "diffusion.sampler must be one of 'ddpm'"),
        ({"steps": 0}, "diffusion.sampling_steps must be at least 1"),
        ({"lower_bound": 2.0}, "mask.lower_bound must be within 0..1"),
        ({"tile": 0}, "A tile must be a multiple of 4 and above 16 pixels, found 0"),
        ({"batch": 0}, "A batch must be of at least one tile, found 0"),
        ({"seed": -1}, "seed must be within 0"),
        ({"tile": 30}, "A tile must be a multiple of 4 and above 16 pixels, found 30"),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence, upscaler):
    with pytest.raises(UserError, match=sentence):
        upscaler(PICTURE, **options)
    with pytest.raises(TypeError, match="stepz"):
        upscaler(PICTURE, stepz=3)


@pytest.mark.parametrize("picture", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8)])
def test_arrays_of_another_kind_are_refused(picture, upscaler):
    with pytest.raises(UserError, match="must be of 8 bits"):
        upscaler(picture)


def test_an_exported_file_is_the_run(expected, tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    config = restore.configuration(Run(tmp_path / "run"))
    export_weights.run(config, str(tmp_path / "run"), str(tmp_path / "weights"))
    for name in ("weights.safetensors", "weights.public.safetensors"):
        made = Upscaler.load(tmp_path / name)(PICTURE, steps=3)
        np.testing.assert_array_equal(made, expected)


def test_the_model_of_the_package_is_better_than_bicubic_on_pictures_it_never_saw():
    """As it is shipped, on the middle of two photographs that are not its trainings'."""
    model = Upscaler.load("photos_x4")
    assert model_file("photos_x4").stat().st_size <= 8 * 2**20
    measure = WholeMeasure(4, "pil")
    for photo in (data.astronaut()[100:228, 180:308], data.coffee()[100:228, 200:328]):
        lr = downsample(photo, 4, "pil")
        nowhere = np.zeros((128, 128, 1), np.uint8)
        ours, bicubic = (
            measure(made, photo, lr, nowhere)
            for made in (Made(model(lr), 0.0, 0.0), enlarged(lr, 4, "pil"))
        )
        assert ours["lpips"] < 0.8 * bicubic["lpips"] and ours["lr_psnr"] > 40
        assert ours["psnr_y"] > bicubic["psnr_y"] - 1 and ours["colour_shift"] < 0.01


def test_what_is_neither_run_nor_exported_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be the workdir of a run that saved a checkpoint"):
        Upscaler.load(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="that --mode=export wrote, found none"):
        Upscaler.load(tmp_path / "a.safetensors")


def test_the_package_alone_loads_little():
    code = "import sys, yoda_jax; print('jax' in sys.modules, hasattr(yoda_jax, 'upscale'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
