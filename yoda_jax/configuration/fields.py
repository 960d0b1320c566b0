"""Which values fields may have; wrong ones are refused, by name, before anything is compiled."""

import math
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from jax.sharding import Mesh
from ml_collections import ConfigDict

from yoda_jax.attention.classical import CLASSICAL
from yoda_jax.attention.dino import head_count, stride
from yoda_jax.attention.maps import AGGREGATES
from yoda_jax.configuration import inference
from yoda_jax.data.examples import Preparation
from yoda_jax.diffusion.formulation import FORMULATIONS
from yoda_jax.diffusion.loss import Penalty
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.schedule import SCHEDULES, Spacing, gammas
from yoda_jax.diffusion.steppers import StepperName
from yoda_jax.errors import UserError
from yoda_jax.evaluation.measure import TILE_RIM
from yoda_jax.models.blocks import Precision, Remat
from yoda_jax.models.networks import NETWORKS
from yoda_jax.pictures import Resampling
from yoda_jax.training import sharding
from yoda_jax.weights.dino import BACKBONES
from yoda_jax.yoda import Base

_MASK = get_type_hints(Mask)
_CHOICES = {
    "data.crop": get_args(get_type_hints(Preparation)["crop"]),
    "data.resampling": get_args(Resampling),
    "data.on_bad": ("stop", "skip"),
    "attention.source": (*BACKBONES, *CLASSICAL, inference.ENCODER),
    "mask.loss_norm": get_args(_MASK["loss_norm"]),
    "mask.times": get_args(_MASK["times"]),
    "mask.context": get_args(_MASK["context"]),
    "mask.input": get_args(_MASK["network_input"]),
    "diffusion.formulation": tuple(FORMULATIONS),
    "diffusion.base": get_args(Base),
    "diffusion.schedule": tuple(SCHEDULES),
    "diffusion.penalty": get_args(Penalty),
    "diffusion.spacing": get_args(Spacing),
    "diffusion.sampler": get_args(StepperName),
    "model.name": tuple(NETWORKS),
    "model.dtype": ("float32", "bfloat16"),
    "model.precision": get_args(Precision),
    "model.remat": get_args(Remat),
    "train.sharding": get_args(sharding.Strategy),
    "train.decay": ("none", "cosine"),
    "train.best": ("", "psnr", "ssim", "lpips"),
}
# Fields by the least and the largest value that they may have.
_RANGES = {
    (1, math.inf): (
        "data.hr_size data.stride data.scale data.max_megapixels data.pictures_per_shard "
        "data.threads data.prefetch "
        "attention.input_size attention.cell attention.batch_size diffusion.steps "
        "diffusion.sampling_steps model.features model.blocks model.groups train.steps "
        "train.batch_size train.accumulate train.log_every train.checkpoint_every "
        "train.keep_checkpoints train.join_seconds train.eval_pictures eval.pictures "
        "eval.batch_size eval.sheet_pictures sweep.pictures sweep.size study.train_seeds "
        "study.sample_seeds"
    ).split(),
    (0, math.inf): (
        "data.patch data.holdout eval.border train.eval_every train.warmup_steps "
        "train.halve_every train.weight_decay train.clip_norm train.profile_at"
    ).split(),
    (0, 1): (
        "mask.lower_bound mask.truncate diffusion.eta diffusion.beta_start diffusion.beta_end "
        "model.dropout train.ema_decay study.diffused attention.fraction"
    ).split(),
}
_LAST_SEED = 2**31 - 2  # the next one's seed is used as well, and JAX takes 31 bits
# A chain that does not end in noise cannot be started from noise, and one that ends in nothing
# else divides by zero.
_LAST_GAMMA = (1e-12, 0.01)


def validate(config: ConfigDict, mode: str = "train") -> None:
    """Raises UserError for the first field that cannot work in a mode."""
    _validate_values(config)
    _validate_data(config)
    _validate_attention(config)
    if mode != "precompute":  # which makes no network
        _validate_network(config)
        _validate_diffusion(config)


def check_batches(config: ConfigDict, mesh: Mesh | None = None) -> None:
    """Raises UserError where the devices (of a mesh) cannot share out the batch of training."""
    c, mesh = config.train, mesh or sharding.make_mesh()
    sharding.check_batch(mesh, "train.batch_size", c.batch_size, c.accumulate)


def require_source(config: ConfigDict) -> None:
    """Raises UserError where no pictures are named, with the field to set and the layout."""
    if not config.data.train:
        raise UserError(
            "--config.data.train is not set: expected folder:PATH[,PATH...] with PNG, JPEG, WebP, "
            "BMP or TIFF pictures anywhere below, tfds:NAME or samples:photos; set it to your "
            "pictures, for example --config.data.train=folder:/data/ffhq."
        )


def _refuse(name: str, expected: str, found: object, advice: str = "") -> None:
    raise UserError(f"--config.{name} must {expected}, found {found}{advice and f'; {advice}'}.")


def _fields(config: ConfigDict, names: Iterable[str]) -> list[tuple[str, Any]]:
    """(name, value) of the fields called GROUP.FIELD."""
    return [(name, config[name.split(".")[0]][name.split(".")[1]]) for name in names]


def _validate_values(config: ConfigDict) -> None:
    """Each field by itself."""
    for name, value in _fields(config, _CHOICES):
        if value not in _CHOICES[name]:
            _refuse(name, f"be one of {', '.join(map(repr, _CHOICES[name]))}", repr(value))
    for group, fields in config.items():
        for field, value in fields.items() if isinstance(fields, ConfigDict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                _refuse(f"{group}.{field}", "be finite", value)
    for (least, most), names in _RANGES.items():
        expected = f"be at least {least}" if most == math.inf else f"be within {least}..{most}"
        for name, value in _fields(config, names):
            if not least <= value <= most:
                _refuse(name, expected, value)
    if not 0 <= config.seed <= _LAST_SEED:
        _refuse("seed", f"be within 0..{_LAST_SEED}", config.seed)
    if config.train.learning_rate <= 0:
        _refuse("train.learning_rate", "be above 0", config.train.learning_rate)
    for name, sizes in _fields(config, ("model.multipliers", "model.attention_resolutions")):
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            advice = f'write it like "--config.{name}=(1, 2)"'
            _refuse(name, "hold whole numbers from 1 on", tuple(sizes), advice)
    if not config.model.multipliers:
        _refuse("model.multipliers", "name at least one level", ())


def _divisible(config: ConfigDict, names: Iterable[str], what: str, divisor: int) -> None:
    for name, value in _fields(config, names):
        if value % divisor:
            expected = f"be divisible by {what} ({divisor})"
            _refuse(name, expected, value, f"choose a multiple of {divisor}")


def _validate_data(config: ConfigDict) -> None:
    data, border = config.data, config.eval.border
    sizes = ["data.hr_size", "data.patch"]
    _divisible(config, sizes + ["data.stride"] * (data.crop == "tiles"), "data.scale", data.scale)
    if data.patch > data.hr_size:
        _refuse("data.patch", f"be within 0..data.hr_size={data.hr_size}", data.patch)
    if data.hr_size < 32 or data.hr_size - 2 * border < 11:
        raise UserError(
            f"--config.data.hr_size={data.hr_size} with eval.border={border} is too small to be "
            "evaluated; LPIPS needs 32 pixels, SSIM 11 inside the border."
        )
    if data.crop == "tiles" and data.hr_size // data.scale <= 2 * TILE_RIM:
        raise UserError(
            f"--config.data.hr_size={data.hr_size} at data.scale={data.scale} makes LR tiles of "
            f"{data.hr_size // data.scale} pixels, expected more than {2 * TILE_RIM}, the rim that "
            "is left out of LR-PSNR; choose larger tiles."
        )


def _validate_network(config: ConfigDict) -> None:
    network, mask = inference.network(config), config.mask
    sizes = ["data.hr_size", "data.patch"]
    _divisible(config, sizes, "the network's reduction", network.reduction)
    if problem := network.problem():
        group = "data" if problem.startswith("scale=") else "model"
        raise UserError(f"--config.{group}.{problem}")
    if mask.enabled and not network.diffuses:
        why = f"be False, since model.name={config.model.name} diffuses nothing"
        _refuse("mask.enabled", why, True)
    if config.diffusion.base == "encoder" and "encoder" not in network.parts:
        why = f"be bicubic, since model.name={config.model.name} has no encoder"
        _refuse("diffusion.base", why, "encoder")
    if mask.enabled and mask.loss_norm == mask.times == "area":
        raise UserError(
            "--config.mask.loss_norm=area needs --config.mask.times=uniform, found area: divided "
            "by the mask's area, the loss of a small mask counts in full, and drawing its time "
            "rarely makes training noisy; add --config.mask.times=uniform."
        )


def _validate_diffusion(config: ConfigDict) -> None:
    c = config.diffusion
    if c.sampling_steps > c.steps:
        raise UserError(
            f"--config.diffusion.sampling_steps={c.sampling_steps} must not exceed "
            f"diffusion.steps={c.steps}."
        )
    (least, most), last = _LAST_GAMMA, gammas(inference.betas(config))[-1]
    if not least <= last <= most:
        what = "not noise" if last > most else "no picture any more, even in 32 bits"
        raise UserError(
            f"The schedule ends with gamma {last:.3g}, which is {what} (expected within "
            f"{least}..{most}); {'raise' if last > most else 'lower'} --config.diffusion.beta_end, "
            "or train with 2000 steps and set diffusion.sampling_steps for a short chain."
        )


def _validate_attention(config: ConfigDict) -> None:
    source, weights, size = (config.attention[n] for n in ("source", "weights", "input_size"))
    how, heads = config.attention.aggregate, head_count(BACKBONES.get(source))
    if how not in AGGREGATES and not (str(how).isdecimal() and int(how) < heads):
        of = f"one of the {heads} heads of {source}, from 0 on"
        expected = f"be {', '.join(AGGREGATES)} or the index of {of}"
        _refuse("attention.aggregate", expected, repr(how))
    power, fraction = config.attention.power, config.attention.fraction
    if power <= 0 or fraction and power != 1:
        expected = "be 1 where attention.fraction looks for it" if fraction else "be above 0"
        _refuse("attention.power", expected, power)
    if source == inference.ENCODER and "encoder" not in inference.network(config).parts:
        why = f"be another, since model.name={config.model.name} has no encoder"
        _refuse("attention.source", why, source)
    if source in (*CLASSICAL, inference.ENCODER):
        return
    if not weights:
        raise UserError(
            f"--config.attention.weights is not set: attention.source={source} needs the file of "
            "its published weights (.pth, .safetensors, .npz or .onnx); download it and name it."
        )
    if weights == inference.PACKAGED and source != inference.PACKAGED_BACKBONE:
        raise UserError(
            f"--config.attention.weights={weights} holds {inference.PACKAGED_BACKBONE}, found "
            f"attention.source={source}; name a file of its weights, or choose that source."
        )
    step = stride(BACKBONES[source])
    if size % step:
        expected = f"be a multiple of {step}, the patch of {source}"
        nearest = max(round(size / step), 1) * step
        _refuse("attention.input_size", expected, size, f"choose for example {nearest}")
