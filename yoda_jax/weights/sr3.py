"""Names of the public SR3 checkpoints to and from parameters of `models.sr3.SR3UNet`.

The names are those of github.com/Janspiry/Image-Super-Resolution-via-Iterative-Refinement.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from flax.traverse_util import flatten_dict

from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.weights import strict

# Our layer within a residual block -> the reference's, in the order of its file.
_BLOCK = {
    "level": "res_block.noise_func.noise_func.0",
    "norm1": "res_block.block1.block.0",
    "conv1": "res_block.block1.block.3",
    "norm2": "res_block.block2.block.0",
    "conv2": "res_block.block2.block.3",
    "shortcut": "res_block.res_conv",
}
_ATTENTION = {"norm": "attn.norm", "qkv": "attn.qkv", "out": "attn.out"}


def _layers(network: SR3UNet) -> Iterator[tuple[str, str]]:
    """Pairs (our module, reference module) of all layers, blocks as a whole, in file order."""
    yield "level_dense1", "noise_level_mlp.1"
    yield "level_dense2", "noise_level_mlp.3"
    yield "stem", "downs.0"
    levels = len(network.multipliers)
    index = 1
    for i in range(levels):
        for j in range(network.blocks):
            yield f"down{i}_block{j}", f"downs.{index}"
            index += 1
        if i < levels - 1:
            yield f"down{i}_conv", f"downs.{index}.conv"
            index += 1
    yield "mid_block0", "mid.0"
    yield "mid_block1", "mid.1"
    index = 0
    for i in reversed(range(levels)):
        for j in range(network.blocks + 1):
            yield f"up{i}_block{j}", f"ups.{index}"
            index += 1
        if i > 0:
            yield f"up{i}_conv", f"ups.{index}.conv"
            index += 1
    yield "final_norm", "final_conv.block.0"
    yield "final_conv", "final_conv.block.3"


def reference_names(network: SR3UNet, params: Mapping) -> dict[tuple[str, ...], str]:
    """The reference's entry for each of our parameters (a nested path), in file order.

    params may hold arrays or shapes; it decides which blocks have attention and shortcuts.
    """
    paths = set(flatten_dict(params))
    names: dict[tuple[str, ...], str] = {}

    def add(path: tuple[str, ...], name: str) -> None:
        for leaf, entry in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
            if (*path, leaf) in paths:
                names[(*path, leaf)] = f"{name}.{entry}"

    for ours, theirs in _layers(network):
        if "_block" not in ours:
            add((ours,), theirs)
            continue
        for part, name in _BLOCK.items():
            add((ours, part), f"{theirs}.{name}")
        for part, name in _ATTENTION.items():
            add((f"{ours}_attention", part), f"{theirs}.{name}")
    return names


def from_reference(network: SR3UNet, entries: Mapping[str, np.ndarray], params: Mapping) -> dict:
    """Parameters of the network from entries named as in the reference (`denoise_fn.` dropped).

    params gives the expected shapes. Convolutions turn from OIHW to HWIO, dense layers from
    (out, in) to (in, out). Raises UserError where an entry is missing, left over or misshapen,
    naming the first five: nothing loads partly.
    """
    return strict.load(
        "The SR3 entries",
        entries,
        reference_names(network, params),
        {path: value.shape for path, value in flatten_dict(params).items()},
        "name a whole file of the public code's own network",
    )
