"""Parts of a network that another run has trained: SRDiff's encoder."""

from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from yoda_jax.errors import UserError
from yoda_jax.jobs import build
from yoda_jax.models.networks import NETWORKS
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import Params, TrainState


def complete(config: ConfigDict, *workdirs: str) -> ConfigDict:
    """The configuration with the hyper-parameters of the network's parts filled in.

    They are those of the first workdir's run that has a checkpoint (it has the part in it), else
    those of the run that model.PART names. Raises UserError where neither is there or does not fit.
    """
    filled = config.copy_and_resolve_references()
    for part, name in NETWORKS[config.model.name].parts.items():
        owned = [field for field in config.model if field.startswith(f"{part}_")]
        for workdir in workdirs:
            saved = _saved(workdir)
            if saved is not None:
                filled.model.update({field: saved["model"][field] for field in owned})
                break
        else:
            saved = _of_part(config, part, name)
            filled.model.update({f: saved["model"][f.removeprefix(f"{part}_")] for f in owned})
    if problem := build.network(filled).problem():
        raise UserError(f"--config.{problem}")
    return filled


def load(config: ConfigDict, state: TrainState) -> TrainState:
    """A new state with the parts' parameters from the runs that trained them."""
    for part in NETWORKS[config.model.name].parts:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            state.params[part],
        )
        folder = Path(config.model[part])
        with Checkpoints(folder / "checkpoints") as checkpoints:
            weights, step = checkpoints.restore_weights(abstract), checkpoints.latest()
        logging.info("%s from step %d of %s", part, step, folder)
        state = TrainState(
            step=state.step,
            params=_replaced(state.params, part, weights),
            ema=_replaced(state.ema, part, jax.tree.map(jnp.copy, weights)),
            opt_state=state.opt_state,
        )
    return state


def _replaced(params: Params | None, part: str, weights: Params) -> Params | None:
    return None if params is None else {**params, part: weights}


def _saved(workdir: str) -> dict | None:
    """The configuration of a run's newest checkpoint."""
    folder = Path(workdir) / "checkpoints"
    if not folder.exists():
        return None
    with Checkpoints(folder) as checkpoints:
        return None if checkpoints.latest() is None else checkpoints.config()


def _of_part(config: ConfigDict, part: str, name: str) -> dict:
    """The configuration of the run that has trained a part."""
    folder = config.model[part]
    if not folder:
        raise UserError(
            f"--config.model.{part} is not set: model.name={config.model.name} needs the workdir "
            f"of a run with model.name={name}; train one first and name it here."
        )
    saved = _saved(folder)
    if saved is None:
        raise UserError(
            f"--config.model.{part}={folder} must be the workdir of a run with model.name={name}, "
            "found no checkpoint there; train it first, or correct the path."
        )
    expected = {"model.name": name, "data.scale": config.data.scale}
    for field, value in expected.items():
        group, key = field.split(".")
        if saved[group][key] != value:
            raise UserError(
                f"--config.model.{part}={folder} must be a run with {field}={value!r}, found "
                f"{saved[group][key]!r}; name another."
            )
    return saved
