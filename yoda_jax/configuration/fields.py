"""Which values fields may have; wrong ones are refused, by name, before anything is compiled."""

import math
from typing import get_args, get_type_hints

from ml_collections import ConfigDict

from yoda_jax.attention.classical import CLASSICAL
from yoda_jax.attention.dino import head_count, stride
from yoda_jax.attention.maps import AGGREGATES
from yoda_jax.configuration import build
from yoda_jax.data.examples import Preparation
from yoda_jax.diffusion.formulation import FORMULATIONS
from yoda_jax.diffusion.loss import Penalty
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.schedule import SCHEDULES, gammas
from yoda_jax.errors import UserError
from yoda_jax.evaluation.measure import TILE_RIM
from yoda_jax.models.networks import NETWORKS
from yoda_jax.pictures import Resampling
from yoda_jax.training.sharding import Strategy
from yoda_jax.weights.dino import BACKBONES

_LAYOUT = (
    "expected folder:PATH[,PATH...] with PNG, JPEG, WebP, BMP or TIFF pictures anywhere "
    "below, tfds:NAME or samples:photos"
)
_CHOICES = {
    "data.crop": get_args(get_type_hints(Preparation)["crop"]),
    "data.resampling": get_args(Resampling),
    "data.on_bad": ("stop", "skip"),
    "attention.source": (*BACKBONES, *CLASSICAL),
    "mask.loss_norm": get_args(get_type_hints(Mask)["loss_norm"]),
    "mask.times": get_args(get_type_hints(Mask)["times"]),
    "mask.context": get_args(get_type_hints(Mask)["context"]),
    "mask.input": get_args(get_type_hints(Mask)["network_input"]),
    "diffusion.formulation": tuple(FORMULATIONS),
    "diffusion.schedule": tuple(SCHEDULES),
    "diffusion.penalty": get_args(Penalty),
    "model.name": tuple(NETWORKS),
    "model.dtype": ("float32", "bfloat16"),
    "model.precision": ("default", "high", "highest"),
    "train.sharding": get_args(Strategy),
    "train.best": ("", "psnr", "ssim", "lpips"),
}
# Fields by the least value that they may have.
_AT_LEAST = {
    1: (
        "data.hr_size data.stride data.scale data.max_megapixels data.pictures_per_shard "
        "data.threads data.prefetch "
        "attention.input_size attention.cell attention.batch_size diffusion.steps "
        "diffusion.sampling_steps model.features model.blocks model.groups train.steps "
        "train.batch_size train.accumulate train.log_every train.checkpoint_every "
        "train.keep_checkpoints train.eval_pictures eval.pictures eval.batch_size "
        "eval.sheet_pictures study.train_seeds study.sample_seeds"
    ).split(),
    0: (
        "data.patch data.holdout eval.border train.eval_every train.warmup_steps "
        "train.halve_every train.weight_decay train.clip_norm train.profile_at"
    ).split(),
}
_SHARES = (
    "mask.lower_bound diffusion.beta_start diffusion.beta_end model.dropout train.ema_decay "
    "study.diffused"
).split()
_LAST_SEED = 2**31 - 2  # the next one's seed is used as well, and JAX takes 31 bits
# A chain that does not end in noise cannot be started from noise, and one that ends in nothing
# else divides by zero.
_LAST_GAMMA = (1e-12, 0.01)
# Modes that make or take no network of this configuration.
_WITHOUT_NETWORK = ("precompute",)


def validate(config: ConfigDict, mode: str = "train") -> None:
    """Raises UserError for the first field that cannot work in a mode."""
    _validate_values(config)
    _validate_data(config)
    _validate_attention(config)
    if mode not in _WITHOUT_NETWORK:
        _validate_network(config)
        _validate_diffusion(config)


def _value(config: ConfigDict, name: str):
    group, field = name.split(".")
    return config[group][field]


def _validate_values(config: ConfigDict) -> None:
    """Each field by itself."""
    for name, choices in _CHOICES.items():
        if _value(config, name) not in choices:
            raise UserError(
                f"--config.{name} must be one of {', '.join(map(repr, choices))}, found "
                f"{_value(config, name)!r}."
            )
    for group, fields in config.items():
        for field, value in fields.items() if isinstance(fields, ConfigDict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--config.{group}.{field} must be finite, found {value}.")
    for least, names in _AT_LEAST.items():
        for name in names:
            if _value(config, name) < least:
                raise UserError(
                    f"--config.{name} must be at least {least}, found {_value(config, name)}."
                )
    for name in _SHARES:
        if not 0 <= _value(config, name) <= 1:
            raise UserError(f"--config.{name} must be within 0..1, found {_value(config, name)}.")
    if not 0 <= config.seed <= _LAST_SEED:
        raise UserError(f"--config.seed must be within 0..{_LAST_SEED}, found {config.seed}.")
    if config.train.learning_rate <= 0:
        raise UserError(
            f"--config.train.learning_rate must be above 0, found {config.train.learning_rate}."
        )
    for name in ("model.multipliers", "model.attention_resolutions"):
        sizes = _value(config, name)
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            raise UserError(
                f"--config.{name} must hold whole numbers from 1 on, found {tuple(sizes)}; write "
                f'it like "--config.{name}=(1, 2)".'
            )


def _divisible(config: ConfigDict, name: str, what: str, divisor: int) -> None:
    if _value(config, name) % divisor:
        raise UserError(
            f"--config.{name} must be divisible by {what} ({divisor}), found "
            f"{_value(config, name)}; choose a multiple of {divisor}."
        )


def _validate_data(config: ConfigDict) -> None:
    data = config.data
    # Only tiles have a stride.
    for name in ("data.hr_size", "data.patch", *["data.stride"] * (data.crop == "tiles")):
        _divisible(config, name, "data.scale", data.scale)
    if data.patch > data.hr_size:
        raise UserError(
            f"--config.data.patch must be within 0..data.hr_size={data.hr_size}, found "
            f"{data.patch}."
        )
    if data.hr_size < 32 or data.hr_size - 2 * config.eval.border < 11:
        raise UserError(
            f"--config.data.hr_size={data.hr_size} with eval.border={config.eval.border} is too "
            "small to be evaluated; LPIPS needs 32 pixels, SSIM 11 inside the border."
        )
    if data.crop == "tiles" and data.hr_size // data.scale <= 2 * TILE_RIM:
        raise UserError(
            f"--config.data.hr_size={data.hr_size} at data.scale={data.scale} makes LR tiles of "
            f"{data.hr_size // data.scale} pixels, expected more than {2 * TILE_RIM}, the rim that "
            "is left out of LR-PSNR; choose larger tiles."
        )


def _validate_network(config: ConfigDict) -> None:
    network = build.network(config)
    for name in ("data.hr_size", "data.patch"):
        _divisible(config, name, "the network's reduction", network.reduction)
    if problem := network.problem():
        group = "data" if problem.startswith("scale=") else "model"
        raise UserError(f"--config.{group}.{problem}")
    if config.mask.enabled and not network.diffuses:
        raise UserError(
            f"--config.mask.enabled must be False, since model.name={config.model.name} diffuses "
            "nothing, found True."
        )
    if config.mask.enabled and config.mask.loss_norm == config.mask.times == "area":
        raise UserError(
            "--config.mask.loss_norm=area needs --config.mask.times=uniform, found area: divided "
            "by the mask's area, the loss of a small mask counts in full, and drawing its time "
            "rarely makes training noisy; add --config.mask.times=uniform."
        )


def _validate_diffusion(config: ConfigDict) -> None:
    diffusion = config.diffusion
    if diffusion.sampling_steps > diffusion.steps:
        raise UserError(
            f"--config.diffusion.sampling_steps={diffusion.sampling_steps} must not exceed "
            f"diffusion.steps={diffusion.steps}."
        )
    last = gammas(build.betas(config))[-1]
    if not _LAST_GAMMA[0] <= last <= _LAST_GAMMA[1]:
        what = "not noise" if last > _LAST_GAMMA[1] else "no picture any more, even in 32 bits"
        how = "raise" if last > _LAST_GAMMA[1] else "lower"
        raise UserError(
            f"The schedule ends with gamma {last:.3g}, which is {what} (expected within "
            f"{_LAST_GAMMA[0]}..{_LAST_GAMMA[1]}); {how} --config.diffusion.beta_end, or train "
            "with 2000 steps and set diffusion.sampling_steps for a short chain."
        )


def _validate_attention(config: ConfigDict) -> None:
    source, weights, size = (config.attention[n] for n in ("source", "weights", "input_size"))
    how, heads = config.attention.aggregate, head_count(BACKBONES.get(source))
    if how not in AGGREGATES and not (str(how).isdecimal() and int(how) < heads):
        raise UserError(
            f"--config.attention.aggregate must be {', '.join(AGGREGATES)} or the index of one of "
            f"the {heads} heads of {source}, from 0 on, found {how!r}."
        )
    if source in CLASSICAL:
        return
    if not weights:
        raise UserError(
            f"--config.attention.weights is not set: attention.source={source} needs the file of "
            "its published weights (.pth, .safetensors, .npz or .onnx); download it and name it."
        )
    if weights == build.PACKAGED and source != build.PACKAGED_BACKBONE:
        raise UserError(
            f"--config.attention.weights={weights} holds {build.PACKAGED_BACKBONE}, found "
            f"attention.source={source}; name a file of its weights, or choose that source."
        )
    step = stride(BACKBONES[source])
    if size % step:
        raise UserError(
            f"--config.attention.input_size must be a multiple of {step}, the patch of {source}, "
            f"found {size}; choose for example {max(round(size / step), 1) * step}."
        )


def require_source(config: ConfigDict) -> None:
    """Raises UserError where no pictures are named, with the field to set and the layout."""
    if not config.data.train:
        raise UserError(
            f"--config.data.train is not set: {_LAYOUT}; set it to your pictures, for example "
            "--config.data.train=folder:/data/ffhq."
        )
