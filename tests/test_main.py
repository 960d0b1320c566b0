"""What a user meets at the command line: one sentence for a mistake, status 2, no traceback."""

import pytest
from absl import flags
from absl.testing import flagsaver
from command_line import ROOT, run

from yoda_jax import main
from yoda_jax.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/sr3_ffhq.py"], "--config.data.train is not set: expected folder:PATH"),
        (["--config=configs/sr3_ffhq.py:64_256"], "--config.data.train is not set"),
        (["--config=configs/none.py"], "configs/none.py does not exist"),
        ([], "--config is not set"),
        (["--config=configs/sr3_ffhq.py:32_128"], "16_128, 16_128_large, 64_256, 64_512"),
        (
            ["--config=configs/demo.py", "--config.mask.lower_bound=2.0"],
            "--config.mask.lower_bound must be within 0..1, found 2.0",
        ),
        (["--config=configs/demo.py", "--config.train.batchsize=3"], "batchsize"),
        (["--config=configs/demo.py", "--mode=paint"], "paint"),
        (
            [
                "--config=configs/demo.py",
                "--mode=precompute",
                "--config.data.train=folder:/nowhere",
            ],
            "/nowhere",
        ),
        (
            ["--config=configs/demo.py", "--mode=precompute", "--config.data.train=photos"],
            "folder:PATH",
        ),
        (["--config=configs/demo.py", "--mode=eval"], "holds no checkpoint; give the --workdir"),
        (["--mode=eval"], "holds no checkpoint; give the --workdir of a run that saved one"),
        (["--mode=train"], "--config is not set"),
        (["--config=configs/demo.py", "--config.seed=5000000000"], "--config.seed must be within"),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, sentence, tmp_path):
    done = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("yoda_jax: ") and sentence in message
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


def test_tuples_of_a_run_can_be_set():
    """JSON, in which checkpoints keep them, has lists alone."""
    workdir = ROOT / "tests/golden/run_before_renaming"
    done = run("--mode=eval", f"--workdir={workdir}", "--config.model.multipliers=(1, 0)")
    sentence = "--config.model.multipliers must hold whole numbers from 1 on, found (1, 0)"
    assert done.returncode == 2 and sentence in done.stderr.strip().splitlines()[-1]


def test_show_prints_parameters_flops_and_memory(tmp_path):
    done = run("--config=configs/demo.py", "--mode=show", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    for part in ("parameters", "993,571", "GFLOP", "GiB", "down0_block0/conv1/kernel"):
        assert part in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "arguments", "sentence"),
    [
        ("import", [], "--mode=import needs --input=FILE, found none."),
        ("import", ["--output=x"], "--mode=import needs --input=FILE, found none."),
        (
            "import",
            ["--input=x", "--output=y"],
            "--output is of --mode=export or upscale, found --mode=import.",
        ),
        ("export", [], "--mode=export needs --output=FILE, found none."),
        (
            "upscale",
            ["--input=x", "--weights=photos_x4", "--step=3"],
            "--step is of a run, found --weights=photos_x4 too.",
        ),
        ("train", ["--input=x.pth"], "--input is of --mode=import or upscale, found --mode=train."),
        (
            "train",
            ["--step=3"],
            "--step is of --mode=eval or export or upscale or sweep, found --mode=train.",
        ),
    ],
)
def test_each_mode_takes_its_own_flags(mode, arguments, sentence):
    with flagsaver.flagsaver():
        flags.FLAGS(["main", *arguments])
        with pytest.raises(UserError) as error:
            main._options(mode)
    assert str(error.value).startswith(sentence)


def test_a_path_too_few_ends_with_status_2(tmp_path):
    done = run("--config=configs/demo.py", "--mode=import", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    sentence = "yoda_jax: --mode=import needs --input=FILE, found none."
    assert done.stderr.strip().splitlines()[-1] == sentence
