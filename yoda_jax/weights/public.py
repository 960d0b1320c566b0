"""Which public checkpoint a file is, and what of a configuration follows from its entries."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from yoda_jax.errors import UserError
from yoda_jax.models.networks import Network
from yoda_jax.models.rrdb import DOUBLINGS
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.weights import sr3, srdiff, strict
from yoda_jax.weights.wrappers import Entries, around, below, prefix_of

# An entry that a network alone has -> its name. SRDiff's file has an RRDB in it, so it comes first.
_MARKS = {
    "noise_level_mlp.1.weight": "sr3",
    "cond_proj.weight": "srdiff",
    "RRDB_trunk.0.RDB1.conv1.weight": "rrdb",
    "body.0.rdb1.conv1.weight": "rrdb",
    "1.sub.0.RDB1.conv1.0.weight": "rrdb",
}
_UNET = "denoise_fn"  # the network within its diffusion


def entries_of(tensors: Entries) -> tuple[str, dict[str, np.ndarray], np.ndarray | None] | None:
    """(network's name, its entries, betas if the file has them) of a checkpoint of public code.

    SR3 of Janspiry, also its UNet alone; SRDiff and RRDB of LeiaLi; RRDB of ESRGAN, BasicSR and
    Real-ESRGAN; as their trainers wrap them, see `wrappers`. None for any other file. Raises
    UserError for SRDiff without its encoder and for several networks in one file.
    """
    for mark, name in _MARKS.items():
        prefix = prefix_of(tensors, mark)
        if prefix is None:
            continue
        whole = below(tensors, around(prefix, _UNET))  # with tables, and SRDiff's encoder
        entries = whole if name == "srdiff" else below(tensors, prefix)
        # The schedule's tables are no layers, whose entries have a layer's name and their own.
        entries = {key: value for key, value in entries.items() if "." in key}
        if name == "srdiff" and "rrdb.conv_first.weight" not in entries:
            raise UserError(
                "The file must hold SRDiff's UNet (denoise_fn.*) and its encoder (rrdb.*), found "
                "no rrdb.conv_first.weight; save the whole diffusion model's state dict."
            )
        entries = srdiff.rrdb_entries(entries) if name == "rrdb" else entries
        return name, entries, whole.get("betas")
    return None


def settings_of(name: str, entries: Entries, image_size: int) -> dict[str, Any]:
    """The fields of a configuration ("model.features") that follow from entries and their shapes.

    image_size is the HR size of training, which tells at which resolutions SR3 has attention.
    Raises UserError where an entry that tells one is missing or has not its axes.
    """
    if name == "sr3":
        found = _sr3(entries, image_size)
    elif name == "srdiff":
        found = _srdiff(entries)
    else:
        scale = 2 ** _last(entries, r"upconv(\d+)")
        found = _rrdb(entries) | {"data.scale": scale, "mask.enabled": False}
    return {"model.name": name, **found}


def _sr3(entries: Entries, image_size: int) -> dict[str, Any]:
    """The levels of an SR3 file: blocks between down-samplings."""
    features = _size(entries, "downs.0.bias")
    widths, blocks, attention = [], [0], []
    for i in range(1, 1 + _last(entries, r"downs\.(\d+)")):
        if f"downs.{i}.conv.weight" in entries:
            blocks.append(0)
            continue
        if not blocks[-1]:
            widths.append(_size(entries, f"downs.{i}.res_block.block1.block.3.bias"))
        blocks[-1] += 1
        if f"downs.{i}.attn.qkv.weight" in entries:
            attention.append(image_size // 2 ** (len(blocks) - 1))
    return {
        "model.features": features,
        "model.multipliers": tuple(width // features for width in widths),
        "model.blocks": blocks[0],
        "model.attention_resolutions": tuple(dict.fromkeys(attention)),
        "data.resampling": "pil",
        "diffusion.formulation": "sr3",
    }


def _srdiff(entries: Entries) -> dict[str, Any]:
    features = _size(entries, "denoise_fn.mlp.0.weight", 1)
    levels = range(1 + _last(entries, r"denoise_fn\.downs\.(\d+)"))
    widths = [_size(entries, f"denoise_fn.downs.{i}.0.block1.block.1.bias") for i in levels]
    return _rrdb(entries, "rrdb.", "encoder_") | {
        "model.features": features,
        "model.multipliers": tuple(width // features for width in widths),
        "data.scale": _size(entries, "denoise_fn.cond_proj.weight", 2) // 2,
        "data.resampling": "srdiff",
        "diffusion.formulation": "srdiff",
        "diffusion.base": "bicubic",
    }


def _rrdb(entries: Entries, prefix: str = "", part: str = "") -> dict[str, Any]:
    """Features and blocks of an RRDB network, in the fields of that part of a network."""
    features = _size(entries, f"{prefix}conv_first.bias")
    channels = _size(entries, f"{prefix}conv_first.weight", 1)
    growth = _size(entries, f"{prefix}RRDB_trunk.0.RDB1.conv1.bias")
    doublings = _last(entries, rf"{re.escape(prefix)}upconv(\d+)")
    if (channels, 2 * growth) != (3, features) or doublings not in DOUBLINGS.values():
        raise UserError(
            f"The RRDB network must take 3 channels ({prefix}conv_first.weight), grow by half of "
            f"its {features} features ({prefix}RRDB_trunk.0.RDB1.conv1.bias) and double a picture "
            f"2 or 3 times ({prefix}upconv), found {channels} channels, a growth of {growth} and "
            f"{doublings} doublings; name a file of scale 4 or 8 without pixel-unshuffle, such as "
            "RealESRGAN_x4plus.pth."
        )
    blocks = 1 + _last(entries, rf"{re.escape(prefix)}RRDB_trunk\.(\d+)")
    sizes = {f"model.{part}features": features, f"model.{part}blocks": blocks}
    return sizes | {f"model.{part}skip": False}


def _last(entries: Entries, pattern: str) -> int:
    """The greatest index that begins an entry's name after the pattern; -1 where there is none."""
    last = max((int(m[1]) for name in entries if (m := re.match(pattern, name))), default=-1)
    if last > len(entries):
        raise UserError(
            f"The checkpoint must number its layers without gaps, found a number {last} among "
            f"{len(entries)} entries; download the file again."
        )
    return last


def _size(entries: Entries, name: str, axis: int = 0) -> int:
    if name not in entries:
        raise UserError(f"The checkpoint's entry {name} is missing; download the file again.")
    shape = np.shape(entries[name])
    if axis >= len(shape) or not shape[axis]:
        raise UserError(
            f"The checkpoint's entry {name} must have a size along axis {axis}, found the shape "
            f"{shape}; download the file again."
        )
    return shape[axis]


def from_public(network: Network, entries: Entries, params: Mapping) -> dict:
    """Our parameters, of the shapes of `params`, from entries of `entries_of`; see `strict`."""
    names, axes = _layout(network, params)
    what = f"The entries of {type(network).__name__}"
    advice = "name a whole file of the public code's own network"
    return strict.load(what, entries, names, params, advice, axes)


def to_public(network: Network, params: Mapping) -> dict[str, np.ndarray]:
    """Entries as the public code names them, from our parameters: the inverse of `from_public`."""
    entries = strict.unload(params, *_layout(network, params))
    within = f"{_UNET}." if isinstance(network, SR3UNet) else ""
    return {f"{within}{name}": value for name, value in entries.items()}


def _layout(network: Network, params: Mapping) -> tuple[dict[strict.Path, str], strict.Axes]:
    """(the public name of each parameter, the order of axes)."""
    if isinstance(network, SR3UNet):
        return sr3.reference_names(network, params), strict.channels_last
    return srdiff.reference_names(params), srdiff.axes


def to_own(params: Mapping) -> dict[str, np.ndarray]:
    """Entries under our names ("down0_block0.conv1.kernel") and in our order of axes."""
    return flatten_dict(params, sep=".")
