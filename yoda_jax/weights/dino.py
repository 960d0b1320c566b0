"""Checkpoints of DINO and DINOv2 backbones to parameters of `models.vit` and `models.resnet`.

Read are backbone files and full training checkpoints of github.com/facebookresearch/dino,
backbones of facebookresearch/dinov2 with and without registers, torchvision's ResNet-50, and DINOv2
under the names of Hugging Face's Dinov2Model and Dinov2WithRegistersModel.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from yoda_jax.errors import UserError
from yoda_jax.models.resnet import ResNet
from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights import strict
from yoda_jax.weights.tensor_file import read_tensors
from yoda_jax.weights.wrappers import below, prefix_of

_SMALL = dict(features=384, depth=12, heads=6)
_BASE = dict(features=768, depth=12, heads=12)
_V2 = dict(patch=14, grid=37, layer_scale=True)
_REGISTERS = dict(registers=4, offset=0.0, antialias=True)
BACKBONES: dict[str, VisionTransformer | ResNet] = {
    "dino_vits8": VisionTransformer(patch=8, grid=28, **_SMALL),
    "dino_vits16": VisionTransformer(patch=16, grid=14, **_SMALL),
    "dino_vitb8": VisionTransformer(patch=8, grid=28, **_BASE),
    "dino_resnet50": ResNet(),
    "dinov2_vits14": VisionTransformer(**_V2, **_SMALL),
    "dinov2_vitb14": VisionTransformer(**_V2, **_BASE),
    "dinov2_vits14_reg": VisionTransformer(**_V2, **_SMALL, **_REGISTERS),
    "dinov2_vitb14_reg": VisionTransformer(**_V2, **_BASE, **_REGISTERS),
}

# Rules from the names of Hugging Face and of DINOv2's trainer to the official ones, in turn.
_OTHER_NAMES = {
    r"^embeddings\.cls_token": "cls_token",
    r"^embeddings\.register_tokens": "register_tokens",
    r"^embeddings\.position_embeddings": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^encoder\.layer\.": "blocks.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.attention\.attention\.": ".attn.",
    r"\.layer_scale(\d)\.lambda1$": r".ls\1.gamma",
    r"^layernorm\.": "norm.",
    r"^blocks\.\d+\.(?=\d+\.)": "blocks.",  # the trainer's are in groups, blocks.GROUP.NUMBER
}
# Rules from our names to the official ones.
_OFFICIAL = {
    r"^patch_embedding\.": "patch_embed.proj.",
    r"^class_token$": "cls_token",
    r"^positions$": "pos_embed",
    r"^blocks_": "blocks.",
    r"\.(query|key|value)\.": r".attn.\1.",
    r"\.out\.": ".attn.proj.",
    r"\.mlp(\d)\.": r".mlp.fc\1.",
    r"\.scale(\d)$": r".ls\1.gamma",
    r"^(layer\d)_block": r"\1.",
    r"\.downsample_conv\.": ".downsample.0.",
    r"\.downsample_bn\.": ".downsample.1.",
    r"(kernel|scale)$": "weight",
    r"(mean|variance)$": r"running_\1",
    r"variance$": "var",
}
# Entries of the first layers, where a backbone's names begin.
_MARKS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "layer1.0.conv1.weight",
)
# Entries of other parts than the backbone: heads, masked-image modelling, decoders, counters.
_OTHER_PARTS = re.compile(
    r"(head|decoder|fc|classifier)\.|(embeddings\.)?mask_token$|.*\.num_batches_tracked$"
)


def load_backbone(name: str, path: str | os.PathLike) -> tuple[VisionTransformer | ResNet, dict]:
    """The network called `name` of BACKBONES and its parameters from a file of its weights.

    Raises UserError where the file cannot be read or an entry does not fit: nothing loads partly.
    """
    return from_entries(name, backbone_entries(read_tensors(path)), path)


def recognise(entries: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
    """The name in BACKBONES of what `backbone_entries` gave, by shapes; None for other networks.

    `path` says in the error where they are from. Raises UserError for a ViT of another size.
    """
    if "layer1.0.conv1.weight" in entries:
        return "dino_resnet50"
    entries = official_names(entries)
    if "patch_embed.proj.weight" not in entries:
        return None
    shape = np.shape(entries["patch_embed.proj.weight"]) or (0,)
    blocks = [int(match[1]) for name in entries if (match := re.match(r"blocks\.(\d+)\.", name))]
    found = {
        "features": shape[0],
        "patch": shape[-1],
        "depth": 1 + max(blocks, default=-1),
        "layer_scale": any(".ls1." in name for name in entries),
        "registers": (*np.shape(entries.get("register_tokens")), 0, 0)[1],
    }
    for name, network in BACKBONES.items():
        if all(getattr(network, field, None) == value for field, value in found.items()):
            return name
    raise UserError(
        f"{os.fspath(path)} must be of one of {', '.join(BACKBONES)}, found a vision transformer "
        f"with {', '.join(f'{k}={v}' for k, v in found.items())}; name a file of one of these."
    )


def from_entries(
    name: str, entries: Mapping[str, np.ndarray], path: str | os.PathLike
) -> tuple[VisionTransformer | ResNet, dict]:
    """`load_backbone` of the entries of `backbone_entries`; `path` says where they are from."""
    network, side = BACKBONES[name], 32
    if isinstance(network, VisionTransformer):
        if any(key.startswith("encoder.layer.") for key in entries):
            # Hugging Face's port interpolates to the size itself, without the tenth of a patch.
            network = dataclasses.replace(network, offset=0.0)
        side = network.patch * network.grid
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, side, side, 3), "f"))
    what = f"The entries of {os.fspath(path)}, read as {name},"
    return network, from_reference(what, official_names(entries), shapes["params"])


def backbone_entries(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The backbone's own entries of a file: the teacher's, without prefixes and other parts."""
    prefixes = (prefix_of(tensors, mark) for mark in _MARKS)
    prefix = next((prefix for prefix in prefixes if prefix is not None), "")
    entries = below(tensors, prefix)
    return {name: value for name, value in entries.items() if not _OTHER_PARTS.match(name)}


def official_names(entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries under the official names with query, key and value apart; others stay as they are."""
    official = {}
    for name, value in entries.items():
        name = strict.renamed(name, _OTHER_NAMES)
        if ".qkv." in name and np.ndim(value) and len(value) % 3 == 0:
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                official[name.replace("qkv", part)] = third
        else:
            official[name] = value
    return official


def from_reference(what: str, entries: Mapping[str, np.ndarray], params: Mapping) -> dict:
    """Our parameters from entries under the official names; params gives the expected shapes.

    `what` (a plural) begins the error's sentence. Raises UserError where an entry does not fit.
    """
    theirs, names = {}, {}
    for path, value in flatten_dict(params).items():
        names[path] = strict.renamed(".".join(path), _OFFICIAL)
        theirs[path] = jax.ShapeDtypeStruct(_unflattened(path, value.shape), np.float32)
    advice = "name a whole file of it, or choose the attention.source that the file was made for"
    loaded = strict.load(what, entries, names, unflatten_dict(theirs), advice)
    return jax.tree.map(lambda value, ours: value.reshape(ours.shape), loaded, params)


def _unflattened(path: strict.Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of our parameter with the axes that the official entry has and ours has not."""
    if path[-2:] == ("patch_embedding", "kernel"):  # a convolution over patches
        side = math.isqrt(shape[0] // 3)
        return (side, side, 3, shape[1])
    leading = {"class_token": (1, 1), "positions": (1,), "register_tokens": (1,)}
    return leading.get(path[-1], ()) + shape
