"""Files of tensors, as other people's code saves them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy


def save(path: Path, content: Mapping) -> str:
    """Writes arrays, nested mappings and other values too where the format is torch's.

    .npz, .safetensors, or anything else for torch.save; returns the path.
    """
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(content, path)
    else:
        import torch

        torch.save(_tensors(content), path)
    return str(path)


def flat(nested: Mapping, before: str = "") -> dict:
    """What nested dictionaries hold by dotted names, arrays alone."""
    found = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif isinstance(value, np.ndarray | np.generic):
            found[f"{before}{key}"] = value
    return found


def _tensors(value):
    import torch

    if isinstance(value, Mapping):
        return {key: _tensors(item) for key, item in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
