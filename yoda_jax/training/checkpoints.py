"""Checkpoints of a run, written in the background by Orbax; the only file that knows Orbax."""

import os
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath

from yoda_jax.errors import UserError
from yoda_jax.training.state import Params, TrainState


class Checkpoints:
    """The checkpoints below a folder, the newest `keep` of them.

    Each holds three items, so that sampling reads only what it needs: `weights` (the averaged
    parameters, or the plain ones where none are kept), `training` (the rest of the state) and
    `config`. An interrupted write never counts as a checkpoint. Use it in a
    `with` block: leaving it waits for the last write.
    """

    def __init__(self, folder: str | os.PathLike, keep: int | None = None) -> None:
        """Opens a folder for writing, keeping the newest `keep`, or without it for reading."""
        self.folder = epath.Path(folder).resolve()
        if keep is None and not self.folder.exists():
            raise self._no_checkpoint()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        handlers = {
            "weights": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, state: TrainState, step: int, config: dict) -> None:
        """Starts writing the state of a step; returns when the device's memory was copied."""
        training = {"step": state.step, "opt_state": state.opt_state}
        if state.ema is not None:
            training["params"] = state.params
        self._manager.save(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardSave(state.eval_params),
                training=ocp.args.StandardSave(training),
                config=ocp.args.JsonSave(config),
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def config(self) -> dict:
        """The configuration that the newest checkpoint was saved with."""
        if self.latest() is None:
            raise self._no_checkpoint()
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(self.latest(), args=items)["config"]

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as `abstract` (shapes with shardings) says.

        Raises UserError where the state does not fit in structure or shape.
        """
        training = {"step": abstract.step, "opt_state": abstract.opt_state}
        if abstract.ema is not None:
            training["params"] = abstract.params
        items = self._restore(weights=abstract.eval_params, training=training)
        rest, weights = items["training"], items["weights"]
        averaged = abstract.ema is not None
        return TrainState(
            step=rest["step"],
            params=rest["params"] if averaged else weights,
            ema=weights if averaged else None,
            opt_state=rest["opt_state"],
        )

    def restore_weights(self, abstract: Params) -> Params:
        """The newest checkpoint's parameters for sampling, placed as `abstract` says."""
        return self._restore(weights=abstract)["weights"]

    def _restore(self, **items: Any) -> dict[str, Any]:
        step = self.latest()
        if step is None:
            raise self._no_checkpoint()
        saved = self._manager.item_metadata(step)
        for name, abstract in items.items():
            self._check(step, abstract, saved[name])
        args = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in items}

    def _no_checkpoint(self) -> UserError:
        return UserError(
            f"{self.folder} holds no checkpoint; give the --workdir of a run that saved one."
        )

    def _check(self, step: int, abstract: Any, saved: Any) -> None:
        """Refuses a checkpoint of other shapes before anything is read."""
        expected = _shapes(abstract)
        found = _shapes(saved)
        wrong = [
            f"{path} is {found.get(path, 'missing')} there and {expected.get(path, 'absent')} here"
            for path in sorted(expected.keys() | found.keys())
            if expected.get(path) != found.get(path)
        ]
        if wrong:
            raise UserError(
                f"The checkpoint of step {step} in {self.folder} does not fit this configuration "
                f"in {len(wrong)} places: {'; '.join(wrong[:5])}; use the configuration of that "
                "run, or another --workdir."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits and releases the folder, also after an error."""
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _path(path: tuple) -> str:
    """A leaf's path, alike for our dataclasses and named tuples and for Orbax's metadata."""
    parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path)
    return ".".join(str(part) for part in parts)
