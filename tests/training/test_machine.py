"""What a run says of the machine that it ran on."""

import subprocess

import jax
import jax.numpy as jnp

from yoda_jax.training import machine


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


def test_the_commit_is_the_folders_own(tmp_path):
    """Not that of a repository which the installed package happens to lie in."""
    assert machine.commit(tmp_path) is None
    git(tmp_path, "init")
    package, installed = tmp_path / "package", tmp_path / "installed"
    for folder in (package, installed):
        folder.mkdir()
        (folder / "a.py").write_text("a = 1\n")
    assert machine.commit(package) is None
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "one")
    found = machine.commit(package)
    assert len(found) == 40 and machine.commit(installed) is None
    (package / "a.py").write_text("a = 2\n")
    assert machine.commit(package) == f"{found} with changes"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit(tmp_path) is None


def test_flops_are_those_of_a_product_of_matrices():
    product = jax.jit(jnp.matmul).lower(jnp.ones((8, 16)), jnp.ones((16, 4))).compile()
    assert machine.flops(product) == 2 * 8 * 16 * 4
    assert machine.flops(product, 3) == 3 * machine.flops(product)


def test_the_description_names_versions_and_devices():
    told = machine.description()
    assert told["jax"] == jax.__version__ and told["devices"] == 8 and told["device"] == "cpu"
