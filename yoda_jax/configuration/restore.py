"""What runs have saved, for a configuration: its own fields, weights, and a trained encoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from yoda_jax.compatibility import check_trained_with, completed
from yoda_jax.configuration import build
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
    saved = saved_configuration(run, step) or {}
    fields = {k: v for k, v in saved.items() if k not in ("records", "imported")}
    return ConfigDict(fields) if fields else None


def weights(config: ConfigDict, run: Run, step: int | None = None) -> Weights:
    """A checkpoint's averaged parameters: the newest one's, or that of a step.

    Raises UserError where there is none, or it was trained with another network or diffusion.
    """
    method, where = build.method(config), sharding.replicated(sharding.make_mesh())
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), build.lr_size(config)))
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

    It is that of the first run that has a checkpoint, which has the encoder in it, else that of the
    run that trained the encoder, model.encoder. A network without one needs nothing. Raises
    UserError where neither is there, or the encoder is of another scale.
    """
    if "encoder" not in build.network(config).parts:
        return config

    def read() -> tuple[dict, str]:
        saved = next(filter(None, map(saved_configuration, runs)), None)
        return (_of_encoder(config), "") if saved is None else (saved, "encoder_")

    saved, prefix = decided(read)
    filled = config.copy_and_resolve_references()
    for field in ("features", "blocks"):
        filled.model[f"encoder_{field}"] = saved["model"][f"{prefix}{field}"]
    if problem := build.network(filled).problem():
        raise UserError(f"--config.model.{problem}")
    return filled


def _of_encoder(config: ConfigDict) -> dict:
    """The configuration of the run that trained the encoder."""
    folder, wanted = config.model.encoder, build.network(config).parts["encoder"]
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


def put_encoder(config: ConfigDict, state: TrainState) -> TrainState:
    """A new state with the encoder's parameters from the run that trained it, if it has one."""
    if "encoder" not in state.params:
        return state
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        state.params["encoder"],
    )
    run = Run(config.model.encoder)
    with Checkpoints(run.checkpoints) as checkpoints:
        encoder, step = checkpoints.restore_weights(abstract), checkpoints.latest()
    logging.info("encoder from step %d of %s", step, run)
    copies = jax.tree.map(jnp.copy, encoder)
    return TrainState(
        step=state.step,
        params={**state.params, "encoder": encoder},
        ema=None if state.ema is None else {**state.ema, "encoder": copies},
        opt_state=state.opt_state,
    )
