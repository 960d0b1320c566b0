"""import: someone else's checkpoint -> a workdir like those of our own runs.

A backbone of attention has no run: it becomes a .safetensors file, which needs no PyTorch.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from yoda_jax.compatibility import flag
from yoda_jax.configuration import build, fields, inference
from yoda_jax.diffusion.schedule import SCHEDULES
from yoda_jax.errors import UserError
from yoda_jax.models.networks import NETWORKS
from yoda_jax.runs import Run, write_whole
from yoda_jax.training import sharding
from yoda_jax.training.state import create
from yoda_jax.weights import dino, foreign
from yoda_jax.weights.tensor_file import ORIGINAL, weights_digest

_SCHEDULE = ("diffusion.schedule", "diffusion.steps", "diffusion.beta_start", "diffusion.beta_end")
_GROUPS = "model.groups is not in the file: take norm_groups of its training"


def run(config: ConfigDict, workdir: str, input: str) -> None:
    """Writes the weights of a file as the checkpoint of step 0, or as a backbone's .safetensors.

    The file is one that `weights.foreign` reads. Its configuration must be the one given, as far
    as the file tells it (a backbone's has none); everything is checked before the workdir is made.
    Raises UserError otherwise.
    """
    found = foreign.read(input, config.data.hr_size)
    if isinstance(found, foreign.Backbone):
        _write_backbone(found, Run(workdir), input)
    else:
        _write_checkpoint(found, _agreed(config, found, input), Run(workdir), input)


def _write_checkpoint(
    found: foreign.Checkpoint, config: ConfigDict, where: Run, input: str
) -> None:
    """Writes a network's parameters as a run has them before its first step."""
    method = inference.method(config)
    _, abstract = build.state(config, method, sharding.make_mesh())
    params = found.parameters(method.network, abstract.params)
    if where.checkpoints.exists():
        raise UserError(f"{where} holds checkpoints already; name another --workdir.")
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    optimizer, average = build.optimizer(config), config.train.ema_decay > 0
    state = jax.jit(lambda p: create(p, optimizer, average), out_shardings=shardings)(params)
    with build.checkpoints(config, where) as checkpoints:
        checkpoints.save(state, 0, config.to_dict() | {"imported": Path(input).name})
    print(f"{input}: {len(found.entries)} entries, {_count(params):,} parameters")
    for field, value in found.settings.items():
        print(f"  {flag(field, value)}")
    if config.model.name == "sr3" and "model.groups" not in found.settings:
        print(f"  --config.model.groups={config.model.groups} ({_GROUPS})")
    print(f"written to {where}; use it with --workdir={where}, and to train with this --config")


def _write_backbone(found: foreign.Backbone, where: Run, input: str) -> None:
    """Writes a backbone's entries under their own names, by which positions are interpolated."""
    path = where.folder / f"{found.name}.safetensors"
    if path.exists():
        raise UserError(f"{path} exists already; name another --workdir or delete that file.")
    _, params = dino.from_entries(found.name, found.entries, input)
    arrays = {key: np.ascontiguousarray(value) for key, value in found.entries.items()}
    write_whole(path, safetensors.numpy.save(arrays, {ORIGINAL: weights_digest(input)}))
    entries, count = len(arrays), f"{_count(params):,} parameters"
    print(f"{input}: {entries} entries, {count}, recognised as {found.name}")
    print(f"written to {path}; use it with")
    print(f"  --config.attention.weights={path} --config.attention.source={found.name}")


def _count(params: Mapping) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def _agreed(config: ConfigDict, found: foreign.Checkpoint, input: str) -> ConfigDict:
    """The configuration with the sizes of parts, which only the file tells.

    Raises UserError where the two differ otherwise, with all flags that make them agree.
    """
    settings = found.settings | ({} if found.betas is None else _schedule(found.betas, input))
    theirs = config.copy_and_resolve_references().lock()
    for name, value in settings.items():
        group, field = name.split(".")
        try:
            theirs[group][field] = value
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{input} must have been made with fields that there are here, found "
                f"{name}={value!r}; import it with the version that exported it."
            ) from error
    # What no file tells, and what must fit what it tells.
    theirs.diffusion.sampling_steps = min(config.diffusion.sampling_steps, theirs.diffusion.steps)
    if theirs.model.name == "sr3" and "model.groups" not in settings:
        theirs.model.groups = math.gcd(config.model.groups, theirs.model.features)
    fields.validate(theirs)
    names = dict.fromkeys((*settings, "diffusion.sampling_steps", "model.groups"))
    if _equal(inference.betas(config), inference.betas(theirs)):  # said in other fields perhaps
        names = [name for name in names if name not in _SCHEDULE]
    ours, different = config.copy_and_resolve_references(), []
    for name in names:
        group, field = name.split(".")
        if field.partition("_")[0] in NETWORKS[theirs.model.name].parts:  # shape of a part
            ours[group][field] = theirs[group][field]
        elif ours[group][field] != theirs[group][field]:
            guess = f" ({_GROUPS})" if name == "model.groups" and name not in settings else ""
            different.append(f"{flag(name, theirs[group][field])}{guess}")
    if different:
        raise UserError(
            f"{input} was made with another configuration than this one; add "
            f"{' '.join(different)}, or take the configuration it was made with."
        )
    return ours


def _schedule(betas: np.ndarray, input: str) -> dict[str, object]:
    """The fields of the schedule that has these betas; raises UserError where none has them."""
    if betas.ndim == 1 and betas.size:
        # A table is float32: .01 comes as .009999999776.
        start, end = (float(f"{beta:.6g}") for beta in betas[[0, -1]])
        for name, schedule in SCHEDULES.items():
            if _equal(schedule(len(betas), start, end), betas):
                values = (name, len(betas), start, end)
                return dict(zip(_SCHEDULE[: 2 if name == "cosine" else 4], values, strict=False))
    raise UserError(
        f"{input} must have been trained with one of the schedules {', '.join(SCHEDULES)}, found a "
        f"table betas of shape {betas.shape} that none of them gives; take another checkpoint."
    )


def _equal(one: Sequence[float], other: Sequence[float] | np.ndarray) -> bool:
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-4, atol=1e-8)
