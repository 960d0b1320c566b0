"""What runs have saved, for a configuration: its own fields, weights, and a trained encoder."""

import dataclasses
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from yoda_jax.compatibility import check_trained_with, completed
from yoda_jax.configuration import inference
from yoda_jax.errors import UserError
from yoda_jax.processes import decided
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.training.checkpoint_folder import CheckpointFolder
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import Params, TrainState


class Weights(NamedTuple):
    """Parameters to sample with, on every device, and how they were trained."""

    params: Params
    mask: dict  # the fields of the mask in training
    step: int


def saved_configuration(run: Run, step: int | None = None) -> dict | None:
    """What a run's newest checkpoint, or that of a step, was trained with; None without any."""
    saved = CheckpointFolder(run.checkpoints).configuration(step)
    return None if saved is None else completed(saved)


def configuration(run: Run, step: int | None = None) -> ConfigDict | None:
    """The configuration of a run, as it could have been given on the command line."""
    if (saved := saved_configuration(run, step)) is None:
        return None
    return inference.loaded({k: v for k, v in saved.items() if k not in ("records", "imported")})


def weights(config: ConfigDict, run: Run, step: int | None = None) -> Weights:
    """A checkpoint's averaged parameters: the newest one's, or that of a step.

    Raises UserError where there is none, or it was trained with another network or diffusion.
    """
    method, where = inference.method(config), sharding.replicated(sharding.make_mesh())
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), inference.lr_size(config)))
    abstract = sharding.placed(shapes, jax.tree.map(lambda _: where, shapes))
    with Checkpoints(run.checkpoints) as checkpoints:
        saved = completed(checkpoints.config(step))
        step = checkpoints.latest() if step is None else step
        check_trained_with(config.to_dict(), saved, run, training=False)
        params = checkpoints.restore_weights(abstract, step)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    logging.info("restored step %d from %s, %s parameters", step, run, f"{count:,}")
    return Weights(params, saved["mask"], step)


def with_encoder(config: ConfigDict, *runs: Run) -> ConfigDict:
    """The configuration with the size of the network's encoder, which nobody has to write twice.

    It is that of the first run that has a checkpoint, with the encoder in it, else that of the run
    that trained the encoder, model.encoder. Raises UserError where neither is there, or the encoder
    is of another scale.
    """
    if "encoder" not in inference.network(config).parts:
        return config

    def read() -> tuple[dict, str]:
        saved = next(filter(None, map(saved_configuration, runs)), None)
        return (_of_encoder(config), "") if saved is None else (saved, "encoder_")

    saved, prefix = decided(read)
    filled = config.copy_and_resolve_references()
    for field in ("features", "blocks", "skip"):
        filled.model[f"encoder_{field}"] = saved["model"][f"{prefix}{field}"]
    if problem := inference.network(filled).problem():
        raise UserError(f"--config.model.{problem}")
    return filled


def _of_encoder(config: ConfigDict) -> dict:
    folder, wanted = config.model.encoder, inference.network(config).parts["encoder"]
    if not folder:
        raise UserError(
            f"--config.model.encoder is not set: model.name={config.model.name} needs the workdir "
            f"of a run with model.name={wanted}; train one first and name it here."
        )
    saved = saved_configuration(Run(folder))
    if saved is None:
        raise UserError(
            f"--config.model.encoder={folder} must be the workdir of a run with "
            f"model.name={wanted}, found no checkpoint there; train it first, or correct the path."
        )
    for group, field, value in (("model", "name", wanted), ("data", "scale", config.data.scale)):
        if saved[group][field] != value:
            raise UserError(
                f"--config.model.encoder={folder} must be a run with {group}.{field}={value!r}, "
                f"found {saved[group][field]!r}; name another."
            )
    return saved


def encoder(config: ConfigDict) -> Params:
    """The parameters of the run that trained the encoder, model.encoder, on every device."""
    method, where = inference.method(config), sharding.replicated(sharding.make_mesh())
    size = inference.lr_size(config)
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), size))["encoder"]
    return _of_run(config, sharding.placed(shapes, jax.tree.map(lambda _: where, shapes)))


def encoder_digest(config: ConfigDict) -> str | None:
    """A hash of these parameters; None where the run is not at hand."""
    if not config.model.encoder or saved_configuration(Run(config.model.encoder)) is None:
        return None
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(encoder(with_encoder(config))):
        digest.update(np.asarray(leaf).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _of_run(config: ConfigDict, abstract: Params) -> Params:
    run = Run(config.model.encoder)
    with Checkpoints(run.checkpoints) as checkpoints:
        found, step = checkpoints.restore_weights(abstract), checkpoints.latest()
    logging.info("encoder from step %d of %s", step, run)
    return found


def put_encoder(config: ConfigDict, state: TrainState) -> TrainState:
    """A new state with the encoder's parameters from the run that trained it, if it has one."""
    if "encoder" not in state.params:
        return state
    drawn = state.params["encoder"]
    trained = _of_run(config, sharding.placed(drawn, jax.tree.map(lambda x: x.sharding, drawn)))
    state = dataclasses.replace(state, params={**state.params, "encoder": trained})
    if state.ema is None:
        return state
    copies = jax.tree.map(jnp.copy, trained)
    return dataclasses.replace(state, ema={**state.ema, "encoder": copies})
