"""Other people's files of weights as arrays by name, without running what is in them."""

import argparse
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp  # also makes NumPy know bfloat16
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

from yoda_jax.errors import UserError
from yoda_jax.weights.onnx_file import read_onnx

# Under which an imported backbone carries the digest of the file that it was made from.
ORIGINAL = "yoda_jax.original_sha256"
_LONGEST_NAME = 1000


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file of weights, those of nested dictionaries by dotted names.

    .pth, .pt, .ckpt and .bin are PyTorch's (zip or legacy stream; needs torch), .onnx is a graph
    (needs onnx), .safetensors and .npz need nothing more. Floating arrays of any precision come as
    float32, integer ones as they are. Nothing in a file is executed: of pickled classes only
    tensors, containers and the `argparse.Namespace` of DINO's trainer are built. Raises UserError
    where the file is missing, of another kind, damaged or holds anything else.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise UserError(
            f"{path} must be a weights file ending in {', '.join(_READERS)}, found the ending "
            f"{path.suffix!r}; rename it if it is of one of these formats."
        )
    tensors = _opened(path, *_READERS[path.suffix.lower()])
    if odd := [name for name in tensors if not name.isprintable() or len(name) > _LONGEST_NAME]:
        raise UserError(
            f"{path} must name its tensors in at most {_LONGEST_NAME} printable characters, found "
            f"{odd[0][:40]!r}; download it again or have them saved under other names."
        )
    # np.issubdtype does not count bfloat16 among the floating types.
    floating = {k for k, array in tensors.items() if jnp.issubdtype(array.dtype, np.floating)}
    return {k: v.astype(np.float32) if k in floating else v for k, v in tensors.items()}


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text that a .safetensors file carries beside its tensors; none in other files."""
    path = Path(path)
    return _opened(path, _metadata, _SAFETENSORS) if path.suffix.lower() == ".safetensors" else {}


def weights_digest(path: str | os.PathLike) -> str:
    """The SHA-256 digest of a file of weights; of an imported one, that of its original.

    So records made with either are the same. Raises UserError where the file cannot be read.
    """
    _head(Path(path))
    if original := read_metadata(path).get(ORIGINAL):
        return original
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _head(path: Path) -> bytes:
    """The first 64 bytes; raises UserError where they cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        problem = f"{path} must be a weights file, found: {found}; correct the path."
        raise UserError(problem) from error


def _opened(path: Path, read: Callable[[Path], dict], expected: str) -> dict:
    """What a reader makes of a file; raises UserError with what the file is instead."""
    head = _head(path)
    try:
        return read(path)
    except UserError:
        raise
    except Exception as error:  # for truncated, altered and hostile files libraries raise any kind
        # torch's own message recommends loading without the protection: it is not repeated.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not head:
            found = "an empty file"
        elif refused:
            found = f"a pickled {refused[1]}, which is not built because it could run code"
        elif "Object arrays" in str(error):
            found = "arrays of pickled Python objects, which could run code"
        elif head.startswith(b"version https://git-lfs"):
            found = "a Git LFS pointer to it, which `git lfs pull` replaces"
        elif head.isascii() and head.decode().replace("\n", " ").rstrip().isprintable():
            found = f"text that begins with {head[:24].decode()!r}"
        else:
            found = f"a truncated or damaged file or another format ({type(error).__name__})"
        raise UserError(
            f"{path} must be {expected}, found {found}; download it again or have its tensors "
            "alone saved as .safetensors in float32."
        ) from error


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        tensors = dict(file.items())
    if not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise ValueError("members that are no arrays")  # NumPy gives their bytes
    return tensors


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is a PyTorch checkpoint, which only torch reads, found no torch; run "
            "`pip install torch`, or take the weights as .safetensors or .npz, which need none."
        ) from error
    # Before, crafted files got past weights_only=True (CVE-2025-32434, CVE-2026-24747).
    if torch.__version__ < "2.10":
        raise UserError(
            f"{path} needs torch 2.10 or newer, the first to read foreign checkpoints safely, "
            f"found torch {torch.__version__}; run `pip install --upgrade torch`."
        )
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold a dictionary of tensors, found one {type(content).__name__}; save "
            "the state dict of the network."
        )
    tensors = {}
    for keys, value in flatten_dict(content).items():
        if isinstance(value, torch.Tensor):
            value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
            tensors[".".join(map(str, keys))] = value.numpy(force=True)
    return tensors


_SAFETENSORS = "a safetensors file that NumPy can hold"
# Ending -> (reader, what it expects).
_READERS: dict[str, tuple[Callable[[Path], dict], str]] = {
    **dict.fromkeys(
        (".pth", ".pt", ".ckpt", ".bin"),
        (_torch, "a PyTorch checkpoint of tensors and plain values"),
    ),
    ".safetensors": (safetensors.numpy.load_file, _SAFETENSORS),
    ".npz": (_npz, "an .npz archive of plain arrays"),
    ".onnx": (read_onnx, "an ONNX graph with its weights inside or beside it"),
}
