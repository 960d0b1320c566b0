"""The rules of the house: who may import whom, and what loads without TensorFlow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "yoda_jax"
MODULES = sorted(ROOT.rglob("*.py"))

# Room -> the rooms of this project that it may import. Arrows point down only.
BASE = {"errors", "prefetch", "runs", "processes", "pictures", "logs", "compatibility"}
METHOD = {"method", "yoda", "regression", "sampling", "frames", "tiled"}
ALLOWED = {
    "arrays": set(),
    "errors": set(),
    "prefetch": set(),
    "logs": set(),
    "pictures": {"errors"},
    "compiled": set(),
    "compatibility": {"errors"},
    "runs": {"errors"},
    "processes": {"errors"},
    "preemption": {"processes"},
    "diffusion": {"diffusion"},
    "models": {"models", "diffusion"},
    "attention": {"attention", "models", "errors", "prefetch"},
    "data": {"data", "attention", *BASE},
    "weights": {"weights", "models", "compatibility", "errors"},
    "training": {"training", "diffusion", *BASE},
    "method": {"diffusion", "training", "pictures"},
    "yoda": {"method", "diffusion", "training", "pictures"},
    "regression": {"method", "diffusion", "training", "pictures"},
    "sampling": {"method", "training", "pictures", "errors"},
    "frames": {"method", "yoda", "regression", "diffusion", "training", "pictures"},
    "tiled": {"frames", "method", "yoda", "regression", "diffusion", "training", "pictures"},
    "upscaler": {"configuration", "attention", "data", "training", "weights", *METHOD, *BASE},
    "evaluation": {
        *("evaluation", "data", "weights", "attention", "diffusion", "training", *METHOD, *BASE)
    },
    "configuration": {
        *("configuration", "evaluation", "data", "weights", "attention", "training", "models"),
        *("diffusion", *METHOD, *BASE),
    },
    "jobs": {
        *("jobs", "configuration", "evaluation", "data", "weights", "attention", "training"),
        *("models", "diffusion", "preemption", "compiled", "upscaler", *METHOD, *BASE),
    },
    "main": {"configuration", "training", "preemption", "upscaler", *BASE},
}

# Packages that only some places may know.
CONFINED = {
    "tensorflow": {"data"},
    "tensorflow_datasets": {"data"},
    "orbax": {"training/checkpoints"},
    "clu": {"jobs", "training/events", "training/progress"},
    "ml_collections": {"configuration", "jobs", "main", "upscaler"},
    "flax": {"models", "weights", "yoda", "regression", "frames"},
    "optax": {"training", "configuration/build"},
    "tqdm": {"jobs"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # "from yoda_jax.jobs import build" names the module build as well.
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


@pytest.mark.parametrize("path", MODULES, ids=room_of)
def test_imports_point_down(path):
    room = room_of(path).split("/")[0]
    if room == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "yoda_jax" and len(parts) > 1:
            assert parts[1] in ALLOWED[room] | {"arrays"}, f"{room_of(path)} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=room_of)
def test_packages_stay_where_they_belong(path):
    found = {name.split(".")[0] for name in imports(path)}
    for package, places in CONFINED.items():
        if package in found:
            assert any(room_of(path).startswith(p) for p in places), f"{room_of(path)}: {package}"
    if room_of(path).startswith("diffusion"):
        host = {"numpy"} if room_of(path).endswith("tiles") else set()  # its plans are not traced
        assert found - set(sys.stdlib_module_names) <= {"jax", "jaxtyping", "yoda_jax"} | host
    if room_of(path) != "main":
        assert not imports(path) & {"absl.flags", "absl.app"}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=room_of)
def test_a_mode_imports_no_mode_that_it_does_not_run(path):
    modes = {p.stem for p in (ROOT / "jobs").glob("*.py") if "\ndef run(" in p.read_text()}
    assert len(modes) == 11
    for mode in modes:
        if f"yoda_jax.jobs.{mode}" in imports(path):
            assert re.search(rf"\b{mode}\.(run|fit)\(", path.read_text()), mode


def test_every_file_stays_small_and_says_what_it_is():
    for path in MODULES:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert text.count("\n") <= 300, f"{path} has over 300 lines"


def test_inference_loads_no_tensorflow():
    code = (
        "import sys, yoda_jax.sampling, yoda_jax.yoda, yoda_jax.upscaler, yoda_jax.data.decode,"
        "yoda_jax.attention.classical, yoda_jax.attention.maps, yoda_jax.attention.dino,"
        "yoda_jax.weights.sr3, yoda_jax.weights.dino,"
        "yoda_jax.evaluation.perceptual, yoda_jax.evaluation.fidelity, yoda_jax.models.sr3;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'clu', 'orbax'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
