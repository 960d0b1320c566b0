"""Names of the public SR3 checkpoints for parameters of `models.sr3.SR3UNet`.

The names are those of github.com/Janspiry/Image-Super-Resolution-via-Iterative-Refinement.
"""

from collections.abc import Mapping

from flax.traverse_util import flatten_dict

from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.weights.strict import Path

# Within a residual block, our layer -> the reference's, in the order of its file.
_BLOCK = {
    ("", "level"): "res_block.noise_func.noise_func.0",
    ("", "norm1"): "res_block.block1.block.0",
    ("", "conv1"): "res_block.block1.block.3",
    ("", "norm2"): "res_block.block2.block.0",
    ("", "conv2"): "res_block.block2.block.3",
    ("", "shortcut"): "res_block.res_conv",
    ("_attention", "norm"): "attn.norm",
    ("_attention", "qkv"): "attn.qkv",
    ("_attention", "out"): "attn.out",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def _modules(network: SR3UNet) -> dict[str, str]:
    """Our layers and blocks -> the reference's, which it numbers along the way down and up."""
    levels = range(len(network.multipliers))
    downs, ups = ["stem"], []
    for i in levels:
        downs += [*(f"down{i}_block{j}" for j in range(network.blocks)), f"down{i}_conv"]
    for i in reversed(levels):
        ups += [*(f"up{i}_block{j}" for j in range(network.blocks + 1)), f"up{i}_conv"]
    return {
        "level_dense1": "noise_level_mlp.1",
        "level_dense2": "noise_level_mlp.3",
        **{ours: f"downs.{index}" for index, ours in enumerate(downs)},
        "mid_block0": "mid.0",
        "mid_block1": "mid.1",
        **{ours: f"ups.{index}" for index, ours in enumerate(ups)},
        "final_norm": "final_conv.block.0",
        "final_conv": "final_conv.block.3",
    }


def reference_names(network: SR3UNet, params: Mapping) -> dict[Path, str]:
    """The reference's entry for each of our parameters (a nested path), in file order.

    params may hold arrays or shapes; it decides which blocks have attention and shortcuts.
    """
    layers = {}
    for ours, theirs in _modules(network).items():
        inner = ".conv" if ours.startswith(("down", "up")) else ""
        layers[ours,] = f"{theirs}{inner}"
        layers |= {(f"{ours}{of}", part): f"{theirs}.{k}" for (of, part), k in _BLOCK.items()}
    paths = flatten_dict(params)
    return {
        (*layer, leaf): f"{theirs}.{entry}"
        for layer, theirs in layers.items()
        for leaf, entry in _LEAVES.items()
        if (*layer, leaf) in paths
    }
