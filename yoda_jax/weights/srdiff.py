"""Names of the public SRDiff and RRDB checkpoints for our parameters.

The names are those of github.com/LeiaLi/SRDiff, for RRDB also of xinntao/ESRGAN and BasicSR.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict

from yoda_jax.weights import strict

# Rules from our names to the reference's, one after the other.
_UNET = {
    r"^level_dense1": "mlp.0",
    r"^level_dense2": "mlp.2",
    r"^projection": "cond_proj",
    r"^final_conv": "final_conv.1",
    r"^final_block": "final_conv.0.block.1",
    r"^mid_block1": "mid_block2",
    r"^mid_block0": "mid_block1",
    r"^down(\d+)_": r"downs.\1.",
    r"^(downs|ups)\.(\d+)\.block": r"\1.\2.",
    r"^(downs\.\d+)\.conv\.": r"\1.2.conv.1.",
    r"^(ups\.\d+)\.conv\.": r"\1.2.conv.0.",
    r"\.conv([12])\.": r".block\1.block.1.",
    r"\.level\.": ".mlp.1.",
    r"\.shortcut\.": ".res_conv.",
    r"kernel$": "weight",
}
_RRDB = {
    r"^hr_conv": "HRconv",
    r"^dense_(\d+)_0": r"RRDB_trunk.\1.RDB1",
    r"^dense_(\d+)_1": r"RRDB_trunk.\1.RDB2",
    r"^dense_(\d+)_2": r"RRDB_trunk.\1.RDB3",
    r"^upconv_2": "upconv3",
    r"^upconv_1": "upconv2",
    r"^upconv_0": "upconv1",
    r"kernel$": "weight",
}
# Rules from BasicSR's and Real-ESRGAN's names of RRDB to the reference's.
_BASICSR = {
    r"^body\.(\d+)\.rdb": r"RRDB_trunk.\1.RDB",
    r"^conv_body\.": "trunk_conv.",
    r"^conv_up(\d)\.": r"upconv\1.",
    r"^conv_hr\.": "HRconv.",
}


def reference_names(params: Mapping) -> dict[strict.Path, str]:
    """The reference's entry for each parameter of an SRDiffUNet or an RRDBNet (a nested path).

    An SRDiffUNet's encoder has the prefix `rrdb.`, the rest `denoise_fn.`; an RRDBNet has none.
    """
    last = max((int(m[1]) for name in params if (m := re.match(r"down(\d+)_", name))), default=0)
    # The reference counts its ups from the deepest on.
    unet = {rf"^up{level}_": f"ups.{last - level}." for level in range(last + 1)} | _UNET
    names = {}
    for path in flatten_dict(params):
        if path[0] == "encoder":
            names[path] = "rrdb." + strict.renamed(".".join(path[1:]), _RRDB)
        elif "encoder" in params:
            names[path] = "denoise_fn." + strict.renamed(".".join(path), unet)
        else:
            names[path] = strict.renamed(".".join(path), _RRDB)
    return names


def rrdb_entries(entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An RRDB network's entries under the names of LeiaLi and ESRGAN; others stay as they are.

    It is the same network as in BasicSR and Real-ESRGAN and as in ESRGAN's first release, which
    numbers its layers: pictures are RGB in [0, 1], and the residual branches have the weight 0.2.
    """
    numbers = sorted({int(m[1]) for name in entries if (m := re.match(r"(\d+)\.", name))} - {1})
    # First, one a doubling, and the last two; the numbers between are of layers without weights.
    doublings = [f"upconv{i}" for i in range(1, len(numbers) - 2)]
    layers = ["conv_first", *doublings, "HRconv", "conv_last"]
    rules = _BASICSR | {
        r"^1\.sub\.(\d+)\.(RDB\d)\.(conv\d)\.0\.": r"RRDB_trunk.\1.\2.\3.",
        r"^1\.sub\.\d+\.(?=weight|bias)": "trunk_conv.",
        **{rf"^{number}\.": f"{layer}." for number, layer in zip(numbers, layers, strict=False)},
    }
    return {strict.renamed(name, rules): value for name, value in entries.items()}


def transposed(path: strict.Path) -> bool:
    """Whether a parameter belongs to a transposed convolution: (in, out, h, w) in the reference."""
    return path[0] == "projection" or re.fullmatch(r"up\d+_conv", path[0]) is not None


def axes(path: strict.Path, ndim: int) -> tuple[int, ...]:
    """The order of the reference's axes in ours."""
    return (2, 3, 0, 1) if transposed(path) and ndim == 4 else strict.channels_last(path, ndim)
