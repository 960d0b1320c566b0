"""Wrong configurations are refused before anything is read or compiled, by the field's name."""

from ml_collections import ConfigDict

from yoda_jax.attention.classical import CLASSICAL
from yoda_jax.attention.dino import head_count, stride
from yoda_jax.diffusion.formulation import FORMULATIONS
from yoda_jax.diffusion.schedule import SCHEDULES, gammas
from yoda_jax.errors import UserError
from yoda_jax.jobs import build
from yoda_jax.models.networks import NETWORKS
from yoda_jax.weights.dino import BACKBONES

_LAYOUT = (
    "expected folder:PATH[,PATH...] with PNG, JPEG, WebP, BMP or TIFF pictures anywhere "
    "below, tfds:NAME or samples:photos"
)
_CHOICES = {
    "data.crop": ("fit", "tiles"),
    "data.resampling": ("pil", "matlab", "srdiff"),
    "data.on_bad": ("stop", "skip"),
    "attention.source": (*BACKBONES, *CLASSICAL),
    "mask.loss_norm": ("pixels", "area"),
    "mask.times": ("uniform", "area"),
    "mask.context": ("hr", "lr"),
    "mask.input": ("full", "masked"),
    "diffusion.formulation": tuple(FORMULATIONS),
    "diffusion.schedule": tuple(SCHEDULES),
    "diffusion.penalty": ("l1", "l2", "ssim"),
    "model.name": tuple(NETWORKS),
    "model.dtype": ("float32", "bfloat16"),
    "train.sharding": ("replicate", "fsdp"),
}
_POSITIVE = (
    "data.hr_size",
    "data.stride",
    "data.scale",
    "data.pictures_per_shard",
    "data.threads",
    "data.prefetch",
    "attention.input_size",
    "attention.cell",
    "attention.batch_size",
    "diffusion.steps",
    "diffusion.sampling_steps",
    "model.features",
    "model.blocks",
    "model.groups",
    "train.steps",
    "train.batch_size",
    "train.accumulate",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_pictures",
    "eval.pictures",
    "eval.batch_size",
    "eval.sheet_pictures",
    "study.train_seeds",
    "study.sample_seeds",
)
_SHARES = (
    "mask.lower_bound",
    "diffusion.beta_start",
    "diffusion.beta_end",
    "model.dropout",
    "train.ema_decay",
    "study.diffused",
)
_NOT_NEGATIVE = (
    "data.holdout",
    "eval.border",
    "train.sample_every",
    "train.warmup_steps",
    "train.halve_every",
    "train.weight_decay",
    "train.clip_norm",
    "train.profile_at",
)
# A chain that does not end in noise cannot be started from noise.
_LAST_GAMMA = 0.01


def _field(config: ConfigDict, name: str):
    group, field = name.split(".")
    return config[group][field]


def validate(config: ConfigDict) -> None:
    """Raises UserError for the first field that cannot work, before anything is compiled."""
    for name, choices in _CHOICES.items():
        if _field(config, name) not in choices:
            raise UserError(
                f"--config.{name} must be one of {', '.join(choices)}, found "
                f"{_field(config, name)!r}."
            )
    for name in _POSITIVE:
        if _field(config, name) < 1:
            raise UserError(f"--config.{name} must be at least 1, found {_field(config, name)}.")
    for name in _NOT_NEGATIVE:
        if _field(config, name) < 0:
            raise UserError(f"--config.{name} must not be negative, found {_field(config, name)}.")
    for name in _SHARES:
        if not 0 <= _field(config, name) <= 1:
            raise UserError(f"--config.{name} must be within 0..1, found {_field(config, name)}.")
    _validate_attention(config)
    data, model, diffusion = config.data, config.model, config.diffusion
    network = build.network(config)
    reduction = network.reduction
    for name, divisors in {
        "data.hr_size": {"data.scale": data.scale, "the network's reduction": reduction},
        "data.patch": {"data.scale": data.scale, "the network's reduction": reduction},
        # Only tiles have a stride.
        "data.stride": {"data.scale": data.scale} if data.crop == "tiles" else {},
    }.items():
        for what, divisor in divisors.items():
            if _field(config, name) % divisor:
                raise UserError(
                    f"--config.{name} must be divisible by {what} ({divisor}), found "
                    f"{_field(config, name)}; choose a multiple of {divisor}."
                )
    if not 0 <= data.patch <= data.hr_size:
        raise UserError(
            f"--config.data.patch must be within 0..data.hr_size={data.hr_size}, found "
            f"{data.patch}."
        )
    if problem := network.problem():
        raise UserError(f"--config.{problem}")
    if config.mask.enabled and not network.diffuses:
        raise UserError(
            f"--config.mask.enabled must be False, since model.name={model.name} diffuses nothing, "
            "found True."
        )
    if config.mask.enabled and config.mask.loss_norm == config.mask.times == "area":
        raise UserError(
            "--config.mask.loss_norm=area needs --config.mask.times=uniform, found area: divided "
            "by the mask's area, the loss of a small mask counts in full, and drawing its time "
            "rarely makes training noisy; add --config.mask.times=uniform."
        )
    if data.hr_size < 32 or data.hr_size - 2 * config.eval.border < 11:
        raise UserError(
            f"--config.data.hr_size={data.hr_size} with eval.border={config.eval.border} is too "
            "small to be evaluated; LPIPS needs 32 pixels, SSIM 11 inside the border."
        )
    if config.train.learning_rate <= 0:
        raise UserError(
            f"--config.train.learning_rate must be above 0, found {config.train.learning_rate}."
        )
    if diffusion.sampling_steps > diffusion.steps:
        raise UserError(
            f"--config.diffusion.sampling_steps={diffusion.sampling_steps} must not exceed "
            f"diffusion.steps={diffusion.steps}."
        )
    last = gammas(build.betas(config))[-1]
    if last > _LAST_GAMMA:
        raise UserError(
            f"The schedule ends with gamma {last:.3f}, which is not noise (expected at most "
            f"{_LAST_GAMMA}); raise --config.diffusion.beta_end, or train with 2000 steps and set "
            "diffusion.sampling_steps for a short chain."
        )


def _validate_attention(config: ConfigDict) -> None:
    source, weights, size = (config.attention[n] for n in ("source", "weights", "input_size"))
    how, heads = config.attention.aggregate, head_count(BACKBONES.get(source))
    if how not in ("max", "mean") and not (str(how).isdecimal() and int(how) < heads):
        raise UserError(
            f"--config.attention.aggregate must be max, mean or the index of one of the {heads} "
            f"heads of {source}, from 0 on, found {how!r}."
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


def flag(name: str, value: object) -> str:
    """What sets a field on the command line, with a value as it is or as JSON keeps it."""
    if isinstance(value, list | tuple):
        return f'"--config.{name}={tuple(value)}"'
    return f"--config.{name}={value}"


def with_later_fields(saved: dict) -> dict:
    """A saved configuration with the fields that came later, as runs without them did."""
    return saved | {"mask": {"times": "uniform"} | saved["mask"]}


def check_trained_with(config: ConfigDict, saved: dict, where: str, training: bool) -> None:
    """Raises UserError where a checkpoint was trained otherwise than this configuration says.

    What only changes how the run goes on (steps, learning rate, batch) may differ; to sample, mask
    and seed may differ too.
    """
    # Where a part came from does not matter once it is in the checkpoint.
    parts = NETWORKS[config.model.name].parts
    names = [f"model.{name}" for name in config.model if name not in parts]
    names += [f"diffusion.{name}" for name in config.diffusion if name != "sampling_steps"]
    names += ["data.scale", "data.resampling"]
    saved = with_later_fields(saved)
    if training:
        masked = config.mask.enabled and saved["mask"]["enabled"]
        names += [f"mask.{name}" for name in config.mask if masked or name == "enabled"]
        names += ["attention.aggregate", "attention.normalise_heads", "data.patch"]
    for name in names:
        group, field = name.split(".")
        found, expected = saved[group].get(field), _field(config, name)
        expected = list(expected) if isinstance(expected, tuple) else expected
        if found != expected:
            raise UserError(
                f"The checkpoint in {where} was trained with {name}={found!r}, this configuration "
                f"says {expected!r}; add {flag(name, found)}, or use another --workdir."
            )
    if training and saved["seed"] != config.seed:
        raise UserError(
            f"The checkpoint in {where} was trained with seed={saved['seed']}, this configuration "
            f"says {config.seed}; use the configuration of that run, or another --workdir."
        )


def check_trained_on(found: dict, saved: dict, where: str) -> None:
    """Raises UserError where the training records are not those that a checkpoint was trained on.

    Both are what records depend on: pictures, sizes, source of attention and hash of its weights.
    """
    for name in sorted(found.keys() | saved.keys()):
        if found.get(name) != saved.get(name):
            raise UserError(
                f"The checkpoint in {where} was trained on records made with "
                f"{name}={saved.get(name)!r}, those of this run were made with "
                f"{found.get(name)!r}; use those records, or another --workdir."
            )
