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
from flax.traverse_util import flatten_dict

from yoda_jax.errors import UserError
from yoda_jax.models.resnet import ResNet
from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights import strict
from yoda_jax.weights.onnx_file import read_onnx
from yoda_jax.weights.tensor_file import read_tensors
from yoda_jax.weights.wrappers import below, flat, prefix_of

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

# Hugging Face's name -> the official one.
_HUGGING_FACE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer": "blocks",
    "attention.output.dense": "attn.proj",
    "attention.attention": "attn",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm": "norm",
}
# Our layer -> the official one, within a block and outside.
_VIT = {
    "patch_embedding": "patch_embed.proj",
    "class_token": "cls_token",
    "positions": "pos_embed",
    "query": "attn.query",
    "key": "attn.key",
    "value": "attn.value",
    "out": "attn.proj",
    "mlp1": "mlp.fc1",
    "mlp2": "mlp.fc2",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
}
_RESNET = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
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

    .pth, .safetensors, .npz, or .onnx. Raises UserError where the file cannot be read or an entry
    is missing, left over or misshapen, naming the first five: nothing loads partly.
    """
    return from_entries(name, backbone_entries(read_weights(path)), path)


def read_weights(path: str | os.PathLike) -> dict:
    """The tensors of a file as it has them; raises UserError where it cannot be read."""
    return read_onnx(path) if os.fspath(path).endswith(".onnx") else read_tensors(path)


def recognise(entries: Mapping[str, np.ndarray], path: str | os.PathLike) -> str | None:
    """The name in BACKBONES of what `backbone_entries` gave, by shapes; None for other networks.

    `path` says in the error where they are from. Raises UserError for a ViT of another size.
    """
    if "layer1.0.conv1.weight" in entries:
        return next(name for name, network in BACKBONES.items() if isinstance(network, ResNet))
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
    network = BACKBONES[name]
    if isinstance(network, VisionTransformer):
        if any(key.startswith("encoder.layer.") for key in entries):
            # Hugging Face's port interpolates to the size itself, without the tenth of a patch.
            network = dataclasses.replace(network, offset=0.0)
        entries = official_names(entries)
        side = network.patch * network.grid
    else:
        side = 32
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, side, side, 3), "f"))
    return network, from_reference(
        f"The entries of {os.fspath(path)}, read as {name},", entries, shapes["params"]
    )


def backbone_entries(tensors: Mapping) -> dict[str, np.ndarray]:
    """The backbone's own entries of a file: the teacher's, without prefixes and other parts."""
    tensors = flat(tensors)
    prefixes = (prefix_of(tensors, mark) for mark in _MARKS)
    prefix = next((prefix for prefix in prefixes if prefix is not None), "")
    entries = below(tensors, prefix)
    return {name: value for name, value in entries.items() if not _OTHER_PARTS.match(name)}


def official_names(entries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries under the official names with query, key and value apart; others stay as they are."""
    renamed = {}
    for name, value in entries.items():
        if name.startswith(("embeddings.", "encoder.", "layernorm.")):
            for theirs, official in _HUGGING_FACE.items():
                name = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.|$)", rf"\g<1>{official}", name)
        # The trainer of DINOv2 saves its blocks in groups, blocks.GROUP.NUMBER.
        name = re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", name)
        parts = name.partition(".qkv.")
        if parts[1] and np.ndim(value) and len(value) % 3 == 0:
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                renamed[f"{parts[0]}.{part}.{parts[2]}"] = third
        else:
            renamed[name] = value
    return renamed


def reference_names(params: Mapping) -> dict[tuple[str, ...], str]:
    """The official entry of each of our parameters (a nested path), query, key and value apart."""
    names = {}
    for path in flatten_dict(params):
        layers = [_VIT.get(part) or _RESNET.get(part) or part for part in path]
        layers[-1] = _LEAVES.get(layers[-1], layers[-1])
        # blocks_3 -> blocks.3 and layer1_block0 -> layer1.0
        names[path] = re.sub(r"_block(?=\d)|(?<=blocks)_", ".", ".".join(layers))
    return names


def from_reference(what: str, entries: Mapping[str, np.ndarray], params: Mapping) -> dict:
    """Our parameters from entries under the official names; params gives the expected shapes.

    `what` (a plural) begins the error's sentence. Raises UserError where an entry is missing, left
    over or misshapen, naming the first five.
    """
    loaded = strict.load(
        what,
        entries,
        reference_names(params),
        {path: _unflattened(path, value.shape) for path, value in flatten_dict(params).items()},
        "name a whole file of it, or choose the attention.source that the file was made for",
    )
    return jax.tree.map(lambda value, ours: value.reshape(ours.shape), loaded, params)


def _unflattened(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of our parameter with the axes that the official entry has and ours has not."""
    if path[-2:] == ("patch_embedding", "kernel"):  # a convolution over patches
        side = math.isqrt(shape[0] // 3)
        return (side, side, 3, shape[1])
    leading = {"class_token": (1, 1), "positions": (1,), "register_tokens": (1,)}
    return leading.get(path[-1], ()) + shape
