"""What a file of weights is: a backbone of attention, or a network that makes pictures."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax.traverse_util import flatten_dict

from yoda_jax.compatibility import completed
from yoda_jax.errors import UserError
from yoda_jax.models.networks import NETWORKS, Network
from yoda_jax.weights import dino, public, strict
from yoda_jax.weights.tensor_file import read_metadata, read_tensors

METADATA = "yoda_jax"  # under which an exported file carries its configuration
MODELS = ("photos_x4",)  # exported files that come with the package, see LICENSES.md


def model_file(name: str) -> Path:
    """The file of a model that comes with the package, one of MODELS."""
    return Path(__file__).with_name(f"{name}.safetensors")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone of attention: its name in `dino.BACKBONES`, its entries as the file names them."""

    name: str
    entries: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network's entries, and what the file tells of the configuration that it was trained with.

    settings: values by field ("model.features"). betas: the table of its schedule, where the file
    has one; an exported file has the schedule's fields among the settings instead. names: whose
    names the entries have, the public code's or ours.
    """

    entries: dict[str, np.ndarray]
    settings: dict[str, Any]
    betas: np.ndarray | None
    names: Literal["public", "ours"]

    def parameters(self, network: Network, shapes: Mapping) -> dict:
        """The network's parameters, of the shapes given; raises UserError where one is not so."""
        if self.names == "public":
            return public.from_public(network, self.entries, shapes)
        return strict.load(
            "The exported entries",
            self.entries,
            {path: ".".join(path) for path in flatten_dict(shapes)},
            shapes,
            "export them again",
            lambda path, ndim: tuple(range(ndim)),
        )


def read(path: str | os.PathLike, hr_size: int) -> Backbone | Checkpoint:
    """A file of `export`, of a backbone, or of the public code of SR3, SRDiff or RRDB.

    hr_size is the HR size of training, which tells at which resolutions SR3 has attention. Raises
    UserError for every other file, and where an entry that tells a setting is damaged.
    """
    entries = read_tensors(path)
    names, exported = _exported(read_metadata(path), path, hr_size)
    if names == "ours":
        return Checkpoint(entries, exported, None, names)
    if network := public.entries_of(entries):
        name, own, betas = network
        if exported:  # it knows more than its entries tell
            return Checkpoint(own, exported, None, names)
        return Checkpoint(own, public.settings_of(name, own, hr_size), betas, names)
    backbone = dino.backbone_entries(entries)
    if name := dino.recognise(backbone, path):
        return Backbone(name, backbone)
    raise UserError(
        f"{os.fspath(path)} must be a checkpoint of SR3, SRDiff or RRDB of the public code, or a "
        "backbone of DINO or DINOv2, found the entries "
        f"{', '.join(sorted(entries)[:5]) or '(none)'}; name another."
    )


def trained_with(path: str | os.PathLike) -> dict[str, Any]:
    """The whole configuration that an exported file carries; raises UserError where it has none."""
    metadata = read_metadata(path)
    if METADATA not in metadata:
        raise UserError(
            f"{os.fspath(path)} must be a .safetensors file that --mode=export wrote, found none "
            "of its configuration in it; --mode=import makes a workdir of other files."
        )
    _exported(metadata, path, 0)  # refuses what is damaged
    return completed(json.loads(metadata[METADATA])["config"])


def _exported(
    metadata: Mapping[str, str], path: str | os.PathLike, hr_size: int
) -> tuple[str, dict[str, Any]]:
    """(whose names an exported file has, the fields that fix what its weights mean).

    ("public", nothing) for a file of others. Raises UserError where the configuration was damaged.
    """
    if METADATA not in metadata:
        return "public", {}
    try:
        written = json.loads(metadata[METADATA])
        saved = completed(written["config"])
        names = {"ours": "ours", "public": "public"}[written["names"]]
        model, data, diffusion = saved["model"], saved["data"], saved["diffusion"]
        settings = {  # JSON knows no tuples
            f"model.{field}": tuple(value) if isinstance(value, list) else value
            for field, value in model.items()
            if value is False or value not in (0, "")
        }
        # Attention belongs to levels, which have other sizes at another HR size.
        if sizes := settings.get("model.attention_resolutions"):
            scaled = tuple(size * hr_size // data["hr_size"] for size in sizes)
            settings["model.attention_resolutions"] = scaled
        settings |= {f"data.{field}": data[field] for field in ("scale", "resampling")}
        settings |= {f"diffusion.{field}": diffusion[field] for field in ("formulation", "base")}
        if NETWORKS[model["name"]].diffuses:
            for field in ("schedule", "steps", "beta_start", "beta_end"):
                settings[f"diffusion.{field}"] = diffusion[field]
        else:
            settings["mask.enabled"] = False
        return names, settings
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{os.fspath(path)} must hold the configuration that it was exported with, found what "
            f"cannot be read ({' '.join(str(error).split())}); export it again."
        ) from error
