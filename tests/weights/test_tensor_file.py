"""Files written by the libraries themselves are read; hostile and broken ones give one sentence."""

import argparse
import hashlib
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from extras import needs_torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensor_files import save

from yoda_jax.errors import UserError
from yoda_jax.weights.tensor_file import read_tensors, weights_digest

both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SUFFIXES = [".npz", ".safetensors", pytest.param(".pth", marks=needs_torch)]


class Payload:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def refused(path: Path, *words: str) -> UserError:
    """The error of reading path, after the checks that hold for each."""
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message and message.endswith(".") and len(message) < 420
    assert "weights_only" not in message  # torch's advice to switch the protection off
    for word in words:
        assert word in message
    return caught.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_arrays_that_were_saved(tmp_path, suffix):
    random = np.random.default_rng(0)
    arrays = {
        "conv.weight": random.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "half": random.normal(size=5).astype(np.float16),
        "double": random.normal(size=(2, 1)),
        "scalar": np.array(3.5, np.float32),
        "bn.num_batches_tracked": np.array(2**40),
        "flags": np.array([True, False]),
    }
    path = tmp_path / f"weights{suffix.upper()}"
    save(tmp_path / f"weights{suffix}", arrays)
    (tmp_path / f"weights{suffix}").rename(path)
    read = read_tensors(os.fspath(path))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        expected = array.astype(np.float32) if array.dtype.kind == "f" else array
        assert isinstance(read[name], np.ndarray)
        np.testing.assert_array_equal(read[name], expected, strict=True)


def test_safetensors_of_bfloat16_come_as_float32(tmp_path):
    import ml_dtypes

    values = np.array([1.0, -2.5, 3.140625, 1e30]).astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"w": values}, tmp_path / "w.safetensors")
    read = read_tensors(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(read, values.astype(np.float32), strict=True)


@needs_torch
@both_formats
def test_torch_halves_come_as_float32_and_parameters_as_arrays(tmp_path, zipped):
    import torch

    weight = torch.linspace(-3, 3, 12).reshape(3, 4)
    content = {
        "bfloat16": weight.bfloat16(),
        "float16": weight.half(),
        "parameter": torch.nn.Parameter(weight),
        "transposed": weight.T,
        "integers": torch.arange(3, dtype=torch.uint8),
    }
    torch.save(content, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "w.bin")
    np.testing.assert_array_equal(read["bfloat16"], weight.bfloat16().float().numpy(), strict=True)
    np.testing.assert_array_equal(read["float16"], weight.half().float().numpy(), strict=True)
    np.testing.assert_array_equal(read["parameter"], weight.numpy(), strict=True)
    np.testing.assert_array_equal(read["transposed"], weight.numpy().T, strict=True)
    np.testing.assert_array_equal(read["integers"], np.arange(3, dtype=np.uint8), strict=True)


@needs_torch
@both_formats
def test_a_dino_training_checkpoint_is_read_in_spite_of_its_namespace(tmp_path, zipped):
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    checkpoint = {
        "student": network.state_dict(),
        "teacher": {f"backbone.{key}": value for key, value in network.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 99,
        "args": argparse.Namespace(arch="vit_small", patch_size=8, crops=(0.4, 1.0)),
        "fp16_scaler": None,
    }
    torch.save(checkpoint, tmp_path / "full.pth", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "full.pth")
    assert {name.partition(".")[0] for name in read} == {"student", "teacher", "optimizer"}
    weight = checkpoint["teacher"]["backbone.0.weight"].numpy()
    np.testing.assert_array_equal(read["teacher.backbone.0.weight"], weight, strict=True)
    assert read["student.1.num_batches_tracked"].dtype == np.int64
    moments = optimizer.state_dict()["state"][0]["exp_avg"].numpy()
    np.testing.assert_array_equal(read["optimizer.state.0.exp_avg"], moments, strict=True)


@needs_torch
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_renamed_runs_no_code(tmp_path, protocol):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    path.write_bytes(pickle.dumps({"w": Payload(made)}, protocol))
    error = refused(path, "PyTorch checkpoint", ".safetensors")
    assert isinstance(error.__cause__, pickle.UnpicklingError)
    assert not made.exists()
    pickle.loads(path.read_bytes())  # the payload is a working one
    assert made.exists()


@needs_torch
@both_formats
def test_a_torch_file_with_a_payload_runs_no_code(tmp_path, zipped):
    import torch

    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    content = {"w": torch.ones(2), "args": argparse.Namespace(hook=Payload(made))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    error = refused(path, f"{os.mkdir.__module__}.mkdir", "could run code")
    assert isinstance(error.__cause__, pickle.UnpicklingError)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()


@needs_torch
@both_formats
def test_no_other_class_than_namespace_is_built(tmp_path, zipped):
    import torch

    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    refused(path, "torch.nn.modules.linear.Linear")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@needs_torch
def test_a_bare_tensor_is_no_dictionary(tmp_path):
    import torch

    torch.save(torch.ones(2), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "dictionary of tensors", "Tensor", "state dict")


def test_npz_with_pickled_objects_runs_no_code(tmp_path):
    path, made = tmp_path / "evil.npz", tmp_path / "made"
    np.savez(path, w=np.ones(2), evil=np.array([Payload(made)], dtype=object))
    error = refused(path, "pickled Python objects", ".safetensors")
    assert isinstance(error.__cause__, ValueError)
    assert not made.exists()


def test_npz_with_other_members_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    refused(tmp_path / "other.npz", "plain arrays")
    np.save(tmp_path / "one.npy", np.ones(2))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    refused(tmp_path / "one.npz", "plain arrays")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save(path, {"a": np.ones((3, 5), np.float32), "b": np.arange(7)})
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 25):
        path.write_bytes(whole[:length])
        assert refused(path, "found").__cause__ is not None
    path.write_bytes(b"")
    refused(path, "an empty file")


@needs_torch
def test_truncated_legacy_torch_files_are_refused(tmp_path):
    import torch

    file = io.BytesIO()
    torch.save({"a": torch.ones(3, 5)}, file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    for length in range(1, len(whole), len(whole) // 40):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        refused(tmp_path / "w.pth", "PyTorch checkpoint")


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=60,
    deadline=None,
    derandomize=True,
)
@given(data=st.data())
def test_altered_files_are_read_or_refused_and_nothing_else(tmp_path, suffix, data):
    path = tmp_path / f"w{suffix}"
    save(path, {"a": np.ones((3, 5), np.float32), "b": np.arange(7)})
    altered = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(altered)
    try:
        assert isinstance(read_tensors(path), dict)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_under_another_name_is_refused_with_its_beginning(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text("<!DOCTYPE html>\n<html>Not found</html>\n")
    refused(path, "text that begins with '<!DOCTYPE html>", "download it again")
    path.write_text("just a few words\n")
    refused(path, "text that begins with 'just a few words")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_git_lfs_pointer_is_shown(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text(LFS_POINTER)
    refused(path, "a Git LFS pointer to it", "git lfs pull")


def test_missing_files_folders_and_unknown_endings_are_refused(tmp_path):
    error = refused(tmp_path / "none.npz", "no such file", "correct the path")
    assert isinstance(error.__cause__, FileNotFoundError)
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "is a directory")
    (tmp_path / "w.h5").write_bytes(b"\x89HDF")
    refused(tmp_path / "w.h5", "'.h5'", ".pth, .pt, .ckpt, .bin, .safetensors, .npz")
    refused(tmp_path, "''")


def test_without_torch_the_error_says_what_needs_none(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(tmp_path / "w.pth", "`pip install torch`", ".safetensors", ".npz")


@needs_torch
def test_a_torch_that_crafted_files_get_past_is_not_used(tmp_path, monkeypatch):
    import torch

    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1+cpu"))
    refused(tmp_path / "w.pth", "torch 2.10 or newer", "found torch 2.5.1", "--upgrade")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(bytes(range(256)) * 5000)
    assert weights_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="no such file"):
        weights_digest(tmp_path / "none.npz")
