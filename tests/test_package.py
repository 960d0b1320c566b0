"""A wheel in an empty environment, used from another folder: up-scaling, without what trains."""

import os
import subprocess
import sys
import zipfile

import pytest
from command_line import ROOT
from PIL import Image
from skimage import data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools would leave its build folder beside the sources.
    source = folder / "source"
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "setup.py", "README.md", "yoda_jax"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source]
    subprocess.run(pip, check=True, timeout=300)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment that holds the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    python = folder / "bin/python"
    constraints = ROOT / "launch/constraints.txt"
    pip = [python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel]
    subprocess.run(pip, check=True, timeout=900)
    return python


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with a photograph."""
    folder = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(data.coffee()[100:130, 200:240]).save(folder / "photo.jpg")
    return folder


def run(python, folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["JAX_PLATFORMS"] = "cpu"
    return subprocess.run(
        [python, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_holds_what_is_read_beside_code(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    weights = ("LICENSES.md", "lpips_alex_f16.npz", "photos_x4.safetensors")
    for name in ("evaluation/page.html", *(f"weights/{name}" for name in weights)):
        assert f"yoda_jax/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "configs"))]


def test_a_photograph_is_enlarged_by_the_command(python, elsewhere):
    done = run(*(python, elsewhere, "-m", "yoda_jax.main", "--mode=upscale", "--input=photo.jpg"))
    assert done.returncode == 0, done.stderr
    with Image.open(elsewhere / "photo_4x.png") as image:
        assert image.size == (160, 120)


def test_and_by_python(python, elsewhere):
    code = (
        "from yoda_jax import Upscaler; import sys;"
        "image = Upscaler.load('photos_x4')('photo.jpg', steps=2);"
        "print(image.size, sorted({'tensorflow', 'clu', 'matplotlib'} & set(sys.modules)))"
    )
    done = run(python, elsewhere, "-c", code)
    assert done.stdout.strip() == "(160, 120) []", done.stderr


def test_training_says_what_it_lacks(python, elsewhere):
    workdir = elsewhere / "run"
    done = run(
        *(python, ROOT, "-m", "yoda_jax.main", "--config=configs/demo.py", "--mode=train"),
        f"--workdir={workdir}",
    )
    sentence = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and 'pip install -e ".[train]"' in sentence
    assert sentence.startswith("yoda_jax: ") and not workdir.exists()
