"""What a file of weights is: a backbone of attention, or a network that makes pictures."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from yoda_jax.compatibility import completed
from yoda_jax.errors import UserError
from yoda_jax.models.networks import NETWORKS, Network
from yoda_jax.weights import dino, public
from yoda_jax.weights.tensor_file import read_metadata
from yoda_jax.weights.wrappers import flat

METADATA = "yoda_jax"  # under which an exported file carries its configuration
_SCHEDULE = ("schedule", "steps", "beta_start", "beta_end")


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
        if self.names == "ours":
            return public.from_own(self.entries, shapes)
        return public.from_public(network, self.entries, shapes)


def read(path: str | os.PathLike, hr_size: int) -> Backbone | Checkpoint:
    """A file of `export`, of a backbone, or of the public code of SR3, SRDiff or RRDB.

    hr_size is the HR size of training, which tells at which resolutions SR3 has attention. Raises
    UserError for every other file, and where an entry that tells a setting is damaged.
    """
    entries = flat(dino.read_weights(path))
    names, exported = _exported(read_metadata(path), path, hr_size)
    if names == "ours":
        return Checkpoint(entries, exported, None, names)
    network = public.entries_of(entries)
    if network is not None:
        name, own, betas = network
        if exported:  # it knows more than its entries tell
            return Checkpoint(own, exported, None, names)
        return Checkpoint(own, public.settings_of(name, own, hr_size), betas, names)
    backbone = dino.backbone_entries(entries)
    name = dino.recognise(backbone, path)
    if name is None:
        raise UserError(
            f"{os.fspath(path)} must be a checkpoint of SR3, SRDiff or RRDB of the public code, or "
            "a backbone of DINO or DINOv2, found the entries "
            f"{', '.join(sorted(entries)[:5]) or '(none)'}; name another."
        )
    return Backbone(name, backbone)


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
            if value not in (0, "")
        }
        # Attention belongs to levels, which have other sizes at another HR size.
        sizes = settings.get("model.attention_resolutions", ())
        if sizes:
            scaled = tuple(size * hr_size // data["hr_size"] for size in sizes)
            settings["model.attention_resolutions"] = scaled
        settings |= {
            "data.scale": data["scale"],
            "data.resampling": data["resampling"],
            "diffusion.formulation": diffusion["formulation"],
        }
        if NETWORKS[model["name"]].diffuses:
            settings |= {f"diffusion.{field}": diffusion[field] for field in _SCHEDULE}
        else:
            settings["mask.enabled"] = False
        return names, settings
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{os.fspath(path)} must hold the configuration that it was exported with, found what "
            f"cannot be read ({' '.join(str(error).split())}); export it again."
        ) from error
