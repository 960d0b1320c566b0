"""Checkpoints of a run, written in the background by Orbax; the only file that knows Orbax."""

import contextlib
import errno
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from yoda_jax.errors import UserError
from yoda_jax.processes import decided
from yoda_jax.training.checkpoint_folder import CheckpointFolder
from yoda_jax.training.state import Params, TrainState

# Of these metrics the largest value is the best, of all others the smallest.
_LARGER_IS_BETTER = ("psnr", "ssim")
# Seconds for a save. Orbax measures them by the time of day, which may be put on by hours; a
# process that is lost ends the others without it.
_PATIENCE = 10**8

# What a disk refuses a write with -> what to do.
_REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there"),
    **dict.fromkeys((errno.EROFS, errno.EIO), "mend the disk or mount it anew"),
}


class Checkpoints:
    """The checkpoints below a folder: the newest ones, and the best by a metric.

    Each holds three items, so that sampling reads only what it needs: `weights` (the averaged
    parameters, or the plain ones where none are kept), `training` (the rest of the state) and
    `config`. An interrupted or damaged one never counts. Leaving the `with` block waits for the
    last write. All processes open, save and restore together.
    """

    def __init__(
        self, folder: str | os.PathLike, keep: int | None = None, best: str | None = None
    ) -> None:
        """Opens a folder for writing, keeping the newest `keep`, or without it for reading.

        The checkpoint with the best value of the metric `best` is kept beside the newest ones.
        Raises UserError where another job writes there, and where every checkpoint is damaged.
        """
        self._folder = CheckpointFolder(folder)
        try:
            self._steps: list[int] = decided(
                self._folder.whole if keep is None else self._folder.take
            )
        except BaseException:
            self._folder.close()
            raise
        self._best = best
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
        larger = best in _LARGER_IS_BETTER

        def value(metrics: Mapping[str, float]) -> float:
            found = metrics.get(best, math.nan)
            return found if not math.isnan(found) else (-math.inf if larger else math.inf)

        if best:
            options = {"reverse": not larger, "n": 1, "keep_checkpoints_without_metrics": False}
            kept.append(policies.BestN(get_metric_fn=value, **options))
        self._manager = ocp.CheckpointManager(
            self._folder.plain,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=value if best else None,  # without it Orbax does not write the metrics
                lightweight_initialize=keep is None,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_PATIENCE,
                    create_directories_asynchronously=False,  # waits with a limit of its own
                    post_finalization_callback=self._folder.seal,
                ),
            ),
            item_handlers={
                "weights": ocp.StandardCheckpointHandler(),
                "training": ocp.StandardCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def save(
        self, state: TrainState, step: int, config: dict, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts writing the state of a step; returns when the device's memory was copied.

        Raises UserError where it or the one before it cannot be written, and where another job has
        written to the folder.
        """
        decided(lambda: self._folder.refuse_strangers(self._steps))
        training = {"step": state.step, "opt_state": state.opt_state}
        if state.ema is not None:
            training["params"] = state.params
        with self._disk_problems():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    weights=ocp.args.StandardSave(state.eval_params),
                    training=ocp.args.StandardSave(training),
                    config=ocp.args.JsonSave(config),
                ),
                metrics=dict(metrics) if metrics else None,
            )
        self._steps.append(step)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, None where there is none."""
        return max(self._steps, default=None)

    def config(self, step: int | None = None) -> dict:
        """The configuration that the newest checkpoint, or that of a step, was saved with."""
        return self._folder.configuration(self._at(step)) or {}

    def evaluated(self, step: int) -> bool:
        """Whether there is no such checkpoint, or it was saved with figures, as all are for `best`.

        Without `best` figures are not saved, and it is taken for evaluated.
        """
        if not self._best:
            return True
        folder = self._folder.path / str(step)
        return decided(lambda: not folder.exists() or (folder / "metrics").exists())

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed as `abstract` (shapes with shardings) says.

        An average that was not saved starts at the parameters; one that is not wanted is left.
        Raises UserError where the state does not fit in structure or shape.
        """
        step = self._at(None)
        training = {"step": abstract.step, "opt_state": abstract.opt_state}
        averaged = "params" in self._manager.item_metadata(step)["training"].tree
        if averaged:
            training["params"] = abstract.params
        items = {"training": training}
        if abstract.ema is not None or not averaged:
            items["weights"] = abstract.params
        restored = self._restore(step, **items)
        rest = restored["training"]
        params = rest["params"] if averaged else restored["weights"]
        ema = None
        if abstract.ema is not None:
            ema = restored["weights"] if averaged else jax.tree.map(jnp.copy, params)
        return TrainState(step=rest["step"], params=params, ema=ema, opt_state=rest["opt_state"])

    def restore_weights(self, abstract: Params, step: int | None = None) -> Params:
        """The parameters for sampling of the newest checkpoint, or of a step, placed likewise."""
        return self._restore(self._at(step), weights=abstract)["weights"]

    def _at(self, step: int | None) -> int:
        # The newest was read when the folder was opened.
        if step in self._steps[:-1] and decided(lambda: self._folder.damaged_item(step)):
            self._steps.remove(step)
        steps = sorted(set(self._steps) & set(self._manager.all_steps()))
        if not steps:
            raise self._folder.empty()
        if step is not None and step not in steps:
            raise UserError(
                f"{self._folder.path} must hold a whole checkpoint of step {step}, found those of "
                f"steps {', '.join(map(str, steps))}; choose one of them."
            )
        return steps[-1] if step is None else step

    def _restore(self, step: int, **items: Any) -> dict[str, Any]:
        args = {}
        for name, abstract in items.items():
            saved = self._manager.item_metadata(step)[name].tree
            self._check(step, abstract, saved)
            # Older optimizers were nested otherwise, with the same arrays in the same order.
            args[name] = ocp.args.StandardRestore(_like(saved, abstract))
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:  # Orbax raises just this
            if "reading array" not in str(error):
                raise
            raise UserError(
                f"{self._folder.path / str(step)} is damaged, expected arrays that can be read; "
                "delete it or bring back a copy, and run again: without it the one before is used."
            ) from error
        return {name: _like(abstract, restored[name]) for name, abstract in items.items()}

    def _check(self, step: int, abstract: Any, saved: Any) -> None:
        """Refuses a checkpoint of other shapes before anything is read."""
        here, there = _shapes(abstract), _shapes(saved)
        wrong = [
            f"{path} is {there.get(path, 'missing')} there and {here.get(path, 'absent')} here"
            for path in sorted(here.keys() | there.keys())
            if here.get(path) != there.get(path)
        ]
        if wrong:
            made = self.config(step).get("model", {})
            fields = " ".join(f"--config.model.{k}={v}" for k, v in made.items())
            raise UserError(
                f"The checkpoint of step {step} in {self._folder.path} does not fit this "
                f"configuration in {len(wrong)} places: {'; '.join(wrong[:5])}; use the "
                f"configuration of that run ({fields}), or another --workdir."
            )

    @contextlib.contextmanager
    def _disk_problems(self) -> Iterator[None]:
        """Turns what the disk refuses, now or in the background, into a UserError."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have their own kinds
            reasons = {os.strerror(number): advice for number, advice in _REFUSALS.items()}
            reason = next((reason for reason in reasons if reason in str(error)), None)
            if reason is None:
                raise
            # Else each of the other writes that failed says so, behind the sentence.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise UserError(
                f"A checkpoint could not be written to {self._folder.path}: {reason}; "
                f"{reasons[reason]} and run again: the run goes on from its last whole checkpoint."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits and releases the folder, also after an error."""
        with contextlib.closing(self._folder), self._disk_problems():
            self._manager.close()


def _like(tree: Any, leaves: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(leaves))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by paths without positions in tuples, alike for our state and Orbax's metadata."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = [getattr(key, "key", getattr(key, "name", None)) for key in path]
        if hasattr(leaf, "shape"):
            found[".".join(str(part) for part in parts if part is not None)] = tuple(leaf.shape)
    return found
