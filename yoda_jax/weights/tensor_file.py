"""Other people's checkpoint files as nested dictionaries of NumPy arrays, without running them."""

import argparse
import hashlib
import os
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp  # also makes NumPy know bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from yoda_jax.errors import UserError

# What the libraries raise on truncated, altered and hostile files.
_NPZ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
)
_SAFETENSORS_ERRORS = (safetensors.SafetensorError, OSError, TypeError, AttributeError)
_TORCH_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
    AssertionError,
    OverflowError,
    MemoryError,
)

# Under which an imported backbone carries the digest of the file that it was made from.
ORIGINAL = "yoda_jax.original_sha256"
_REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_tensors(path: str | os.PathLike) -> dict:
    """The nested dictionary of a weights file with its tensors as NumPy arrays.

    .pth, .pt, .ckpt and .bin are PyTorch's (zip or legacy stream; needs torch), .safetensors and
    .npz need nothing more. Floating arrays of any precision come as float32, integer ones as they
    are; other leaves stay, such as the `argparse.Namespace` of a DINO training checkpoint. Nothing
    in a file is executed: of pickled classes only tensors, containers and that Namespace are built.
    Raises UserError where the file is missing, of another kind, damaged or holds anything else.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} must be a weights file ending in {', '.join(_READERS)}, found the ending "
            f"{path.suffix!r}; rename it if it is of one of these formats."
        )
    file_head(path)
    return reader(path)


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 digest of a file in hexadecimal; raises UserError where it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unopened(path, error) from error


def weights_digest(path: str | os.PathLike) -> str:
    """The SHA-256 digest of a file of weights; of an imported one, that of its original.

    So records made with either are the same. Raises UserError where the file cannot be read.
    """
    return read_metadata(path).get(ORIGINAL) or sha256(path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text that a .safetensors file carries beside its tensors; none in other files."""
    if Path(path).suffix.lower() != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except _SAFETENSORS_ERRORS as error:
        raise unreadable(Path(path), "a safetensors file that NumPy can hold", error) from error


def file_head(path: str | os.PathLike) -> bytes:
    """The first 64 bytes; raises UserError for no readable file and for a Git LFS pointer."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise _unopened(path, error) from error
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} must hold weights, found a Git LFS pointer to them; run `git lfs pull` in its "
            "repository or download the file itself."
        )
    return head


def unreadable(path: Path, expected: str, error: Exception) -> UserError:
    """The one sentence for a file that a library refused with `error`."""
    head = file_head(path)
    # torch's own message recommends loading without the protection: it is not repeated.
    refused = _REFUSED_GLOBAL.search(str(error))
    if not head:
        found = "an empty file"
    elif refused:
        found = f"a pickled {refused[1]}, which is not built because it could run code"
    elif "Object arrays" in str(error):
        found = "arrays of pickled Python objects, which could run code"
    elif head.isascii() and head.decode().replace("\n", " ").rstrip().isprintable():
        found = f"text that begins with {head[:20].decode()!r}"
    else:
        found = f"a truncated or damaged file or another format ({type(error).__name__})"
    return UserError(
        f"{path} must be {expected}, found {found}; download it again or have its tensors alone "
        "saved as .safetensors in float32."
    )


def _unopened(path: str | os.PathLike, error: OSError) -> UserError:
    found = (error.strerror or str(error)).lower()
    return UserError(f"{path} must be a weights file, found: {found}; correct the path.")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: float32(array) for name, array in file.items()}
    except _NPZ_ERRORS as error:
        raise unreadable(path, "an .npz archive of plain arrays", error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = safetensors.numpy.load_file(path)
    except _SAFETENSORS_ERRORS as error:
        raise unreadable(path, "a safetensors file that NumPy can hold", error) from error
    return {name: float32(array) for name, array in arrays.items()}


def _read_torch(path: Path) -> dict:
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

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: arrays(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(arrays(item) for item in value)
        if isinstance(value, torch.Tensor):
            value = value.float() if value.is_floating_point() else value
            return value.numpy(force=True)
        return value

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = arrays(torch.load(path, map_location="cpu", weights_only=True))
    except _TORCH_ERRORS as error:
        expected = "a PyTorch checkpoint of tensors and plain values"
        raise unreadable(path, expected, error) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold a dictionary of tensors, found one {type(content).__name__}; save "
            "the state dict of the network."
        )
    return content


def float32(array: np.ndarray) -> np.ndarray:
    """Floating arrays of any precision as float32, others as they are."""
    # np.issubdtype does not count bfloat16 among the floating types.
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, np.floating) else array


_READERS = dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), _read_torch) | {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
