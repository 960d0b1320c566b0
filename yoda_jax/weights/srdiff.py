"""Names of the public SRDiff and RRDB checkpoints to and from our parameters.

The names are those of github.com/LeiaLi/SRDiff, for RRDB also of xinntao/ESRGAN and BasicSR.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict

from yoda_jax.weights import strict

_UNET = {
    "level_dense1": "mlp.0",
    "level_dense2": "mlp.2",
    "projection": "cond_proj",
    "final_block": "final_conv.0.block.1",
    "final_conv": "final_conv.1",
}
_BLOCK = {
    "conv1": "block1.block.1",
    "conv2": "block2.block.1",
    "level": "mlp.1",
    "shortcut": "res_conv",
}
_RRDB = {"hr_conv": "HRconv"}
# RRDB's layers as BasicSR and Real-ESRGAN name them.
_BASICSR = {
    r"^body\.(\d+)\.rdb": r"RRDB_trunk.\1.RDB",
    r"^conv_body\.": "trunk_conv.",
    r"^conv_up(\d)\.": r"upconv\1.",
    r"^conv_hr\.": "HRconv.",
}
_LEAVES = {"kernel": "weight", "bias": "bias"}


def reference_names(params: Mapping) -> dict[tuple[str, ...], str]:
    """The reference's entry for each parameter of an SRDiffUNet or an RRDBNet (a nested path).

    An SRDiffUNet's encoder has the prefix `rrdb.`, the rest `denoise_fn.`; an RRDBNet has none.
    """
    paths = flatten_dict(params)
    levels = 1 + max((int(m[1]) for p in paths if (m := re.match(r"down(\d+)_", p[0]))), default=0)
    unet = any(path[0] == "encoder" for path in paths)
    names = {}
    for path in paths:
        *layers, leaf = path
        if not unet:
            name = _rrdb_name(layers)
        elif layers[0] == "encoder":
            name = f"rrdb.{_rrdb_name(layers[1:])}"
        else:
            name = f"denoise_fn.{_unet_name(layers, levels)}"
        names[path] = f"{name}.{_LEAVES[leaf]}"
    return names


def rrdb_entries(entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An RRDB network's entries under the names of LeiaLi and ESRGAN; others stay as they are.

    It is the same network as in BasicSR and Real-ESRGAN and as in ESRGAN's first release, which
    numbers its layers: pictures are RGB in [0, 1], and the residual branches have the weight 0.2.
    """
    numbers = sorted({int(m[1]) for name in entries if (m := re.match(r"(\d+)\.", name))} - {1})
    # First, one a doubling, and the last two; the numbers between are of layers without weights.
    tops = [
        "conv_first",
        *(f"upconv{i}" for i in range(1, len(numbers) - 2)),
        "HRconv",
        "conv_last",
    ]
    renames = _BASICSR | {
        r"^1\.sub\.(\d+)\.(RDB\d)\.(conv\d)\.0\.": r"RRDB_trunk.\1.\2.\3.",
        r"^1\.sub\.\d+\.(?=weight|bias)": "trunk_conv.",
        **{rf"^{number}\.": f"{top}." for number, top in zip(numbers, tops, strict=False)},
    }
    renamed = {}
    for name, value in entries.items():
        for theirs, official in renames.items():
            name = re.sub(theirs, official, name)
        renamed[name] = value
    return renamed


def transposed(path: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to a transposed convolution: (in, out, h, w) in the reference."""
    return path[0] == "projection" or re.fullmatch(r"up\d+_conv", path[0]) is not None


def axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """The order of the reference's axes in ours."""
    return (2, 3, 0, 1) if transposed(path) and ndim == 4 else strict.channels_last(path, ndim)


def from_reference(entries: Mapping[str, np.ndarray], params: Mapping) -> dict:
    """Parameters of an SRDiffUNet or an RRDBNet from entries named as `reference_names` says.

    params gives the expected shapes. Convolutions turn from OIHW to HWIO, transposed ones from
    (in, out, h, w) to (h, w, in, out), dense layers from (out, in) to (in, out). The reference's
    schedule tables are no parameters and must not be among the entries. Raises UserError where an
    entry is missing, left over or misshapen, naming the first five: nothing loads partly.
    """
    return strict.load(
        f"The {'SRDiff' if 'encoder' in params else 'RRDB'} entries",
        entries,
        reference_names(params),
        {path: value.shape for path, value in flatten_dict(params).items()},
        "name a whole file of the public code's own network",
        axes,
    )


def _unet_name(layers: list[str], levels: int) -> str:
    first = layers[0]
    if first in _UNET:
        return _UNET[first]
    side, level, part = re.fullmatch(r"(down|mid|up)(\d*)_(\w+)", first).groups()
    if side == "mid":
        module = f"mid_block{int(part[-1]) + 1}"
    else:
        # The reference counts its ups from the deepest on.
        index = int(level) if side == "down" else levels - 1 - int(level)
        module = f"{side}s.{index}.{2 if part == 'conv' else part[-1]}"
    if part == "conv":
        return f"{module}.conv.{1 if side == 'down' else 0}"
    return f"{module}.{_BLOCK[layers[1]]}"


def _rrdb_name(layers: list[str]) -> str:
    first, *rest = layers
    block = re.fullmatch(r"dense_(\d+)_(\d+)", first)
    if block:
        return f"RRDB_trunk.{block[1]}.RDB{int(block[2]) + 1}.{rest[0]}"
    upconv = re.fullmatch(r"upconv_(\d+)", first)
    return f"upconv{int(upconv[1]) + 1}" if upconv else _RRDB.get(first, first)
