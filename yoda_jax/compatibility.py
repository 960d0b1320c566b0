"""Whether what lies on a disk fits what is asked for now; older configurations are completed.

Configurations are plain nested dictionaries here, as checkpoints and reports keep them.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from yoda_jax.errors import UserError

# Fields by the names that they had before.
_RENAMED = {
    "data.border": "data.resampling",
    "train.sample_every": "train.eval_every",
    "train.sample_pictures": "train.eval_pictures",
}
# Fields that came later, with what runs did before them.
LATER: dict[str, Any] = {
    "mask.times": "uniform",
    "data.max_megapixels": 100,
    "model.precision": "default",
    "model.remat": "none",
    "train.best": "",
    "diffusion.spacing": "uniform",
    "diffusion.sampler": "ddpm",
    "diffusion.eta": 0.0,
    "mask.truncate": 0.0,
    "train.join_seconds": 300,
    "train.decay": "none",
    "attention.power": 1.0,
    "attention.fraction": 0.0,
    "model.skip": False,
    "model.encoder_skip": False,
    "diffusion.base": "bicubic",
    "eval.name": "eval",
    "eval.sets": "",
    "eval.beside": "",
    "sweep.steps": (100, 50, 20, 10, 5),
    "sweep.samplers": ("ddpm",),
    "sweep.bounds": (0.05,),
    "sweep.truncate": (0.0,),
    "sweep.pictures": 10,
    "sweep.size": 512,
}

# What a run may go on or be sampled with, whatever it was trained with: where a part came from,
# since it lies in the checkpoint; how products are computed, and what is kept of them; how it is
# sampled.
_FREE = (
    *("model.encoder", "model.precision", "model.remat", "mask.truncate"),
    *(f"diffusion.{name}" for name in ("sampling_steps", "spacing", "sampler", "eta")),
)
# What only changes how a run goes on. A run that has all its steps cannot follow a change.
_STEERING = (
    "train.batch_size",
    "train.accumulate",
    "train.learning_rate",
    "train.warmup_steps",
    "train.halve_every",
    "train.decay",
    "train.weight_decay",
    "train.clip_norm",
    "train.ema_decay",
    "data.flip",
)


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with today's names, and what its time did in fields that came later."""
    fields = copy.deepcopy(dict(saved))
    for before, now in _RENAMED.items():
        (group, old), new = before.split("."), now.split(".")[1]
        if old in fields.get(group, {}):
            fields[group][new] = fields[group].pop(old)
    for name, value in LATER.items():
        group, field = name.split(".")
        if group in fields or group == "sweep":  # a group that came later
            fields.setdefault(group, {}).setdefault(field, value)
    return fields


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of records ("data.scale": 4) with today's names."""
    return {_RENAMED.get(name, name): value for name, value in settings.items()}


def flag(name: str, value: object) -> str:
    """What sets a field on the command line, with a value as it is or as JSON keeps it."""
    if isinstance(value, list | tuple):
        return f'"--config.{name}={tuple(value)}"'
    return f"--config.{name}={value}"


def _value(fields: Mapping[str, Any], name: str) -> Any:
    """The field called `name`; JSON keeps tuples as lists."""
    group, _, field = name.partition(".")
    value = fields[group].get(field) if field else fields[group]
    return tuple(value) if isinstance(value, list) else value


def _different(asked: Mapping, saved: Mapping, names: Iterable[str]) -> tuple[str, Any, Any] | None:
    """The first field that differs, with what was saved and what is asked for."""
    values = ((name, _value(saved, name), _value(asked, name)) for name in names)
    return next((found for found in values if found[1] != found[2]), None)


def check_trained_with(asked: Mapping, saved: Mapping, where: object, training: bool) -> None:
    """Raises UserError where a checkpoint was trained otherwise than the configuration asked for.

    What only changes how the run goes on (steps, learning rate, batch) may differ; to sample, mask
    and seed may differ too. `saved` is a completed configuration.
    """
    names = [f"{group}.{field}" for group in ("model", "diffusion") for field in asked[group]]
    names += ["data.scale", "data.resampling"]
    if training:
        masked = asked["mask"]["enabled"] and saved["mask"]["enabled"]
        names += [f"mask.{field}" for field in asked["mask"] if masked or field == "enabled"]
        reading = ("aggregate", "normalise_heads", "power", "fraction")
        names += [*(f"attention.{field}" for field in reading), "data.patch", "seed"]
    if found := _different(asked, saved, [name for name in names if name not in _FREE]):
        name, then, now = found
        raise UserError(
            f"The checkpoint in {where} was trained with {name}={then!r}, this configuration says "
            f"{now!r}; add {flag(name, then)}, or use another --workdir."
        )


def check_finished(asked: Mapping, saved: Mapping, where: object) -> None:
    """Raises UserError where a run that has all its steps was steered otherwise than asked for."""
    if found := _different(asked, saved, _STEERING):
        name, then, now = found
        raise UserError(
            f"{where} has its {asked['train']['steps']} steps already, trained with "
            f"{name}={then!r}, this configuration says {now!r}; raise --config.train.steps to go "
            "on with it, evaluate what is there by --mode=eval, or use another --workdir."
        )
