"""What a training run tells while it runs, without ever waiting for the newest step."""

import collections
import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from clu import metric_writers

from yoda_jax.errors import UserError
from yoda_jax.training import machine
from yoda_jax.training.step import Metrics

_PROFILE_STEPS = 5
_SECONDS_BETWEEN_WARNINGS = 60


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens in a training of `steps` steps; 0 is never."""

    steps: int
    log_every: int
    checkpoint_every: int
    eval_every: int
    profile_at: int  # the step at which a profile of five steps is taken
    warn_from: int  # the step from which drifting colours are warned of
    offset_warning: float  # ... where predicted y0 is off lr_up by this much in a channel

    def due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return every > 0 and (step % every == 0 or step == self.steps)


class Progress:
    """Metrics, speed, waiting time, memory, warnings and the profile of a run in a folder.

    `flops` is what a step costs each device. What is done `apart` counts as no time of steps.
    """

    def __init__(
        self, plan: Plan, board: metric_writers.MetricWriter, workdir: str, flops: float
    ) -> None:
        self.plan, self.workdir, self.flops = plan, workdir, flops
        self.writer = metric_writers.MultiWriter([metric_writers.LoggingWriter(), board])
        self.window: list[tuple[int, Metrics]] = []  # steps since the last line of the log
        self.window_waited = self.window_apart = 0.0
        self.totals = collections.Counter[str]()  # seconds by what they went to
        self.started = self.window_start = time.perf_counter()
        self.profiling = False

    def next_batch(self, stream: Iterator[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        """The next batch, with the time that it made the loop wait."""
        start = time.perf_counter()
        batch = next(stream)
        self.window_waited += time.perf_counter() - start
        return batch

    def after_dispatch(self, step: int, metrics: Metrics) -> None:
        """Keeps the metrics of a step that was just started; writes the window before it if due.

        Waits for the step before: the device has this one to work at meanwhile, and without it the
        host would run ahead, holding ever more batches.
        """
        if self.window:
            before, last = self.window[-1]
            jax.block_until_ready(last["loss"])
            if self.plan.due(before, self.plan.log_every):
                self._write()
        else:  # the first step of all: what came before was compilation
            self.started = self.window_start = time.perf_counter()
            self.window_waited = 0.0
        self.window.append((step, metrics))
        if step == self.plan.profile_at:
            jax.profiler.start_trace(self.workdir)
            self.profiling = True
        if self.profiling and step in (self.plan.profile_at + _PROFILE_STEPS, self.plan.steps):
            jax.block_until_ready(metrics["loss"])
            jax.profiler.stop_trace()
            self.profiling = False
            logging.info("profile of the steps up to %d in %s", step, self.workdir)

    @contextlib.contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Time that counts for itself and not as that of steps, which must have ended."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.window_apart += spent
        self.totals[name] += spent
        logging.info("%s: %.2f s", name, spent)

    def check_finite(self) -> None:
        """Raises UserError with the first step of the window that is not finite."""
        found = jax.device_get([(m["loss"], m["grad_norm"]) for _, m in self.window])
        for (step, _), (loss, norm) in zip(self.window, found, strict=True):
            if not np.isfinite(loss + norm):
                raise UserError(
                    f"Step {step} has the loss {loss} and the gradient norm {norm}, expected "
                    "finite values; lower --config.train.learning_rate or set "
                    "--config.train.clip_norm, and run again: "
                    f"the run goes on from its last checkpoint in {self.workdir}."
                )

    def finish(self) -> None:
        """Writes what is left, and the shares of time that were none of the steps'."""
        self._write()
        total = time.perf_counter() - self.started
        shares = [f"{name} {100 * spent / total:.2f} %" for name, spent in self.totals.items()]
        logging.info("of the training time: %s", ", ".join(shares))

    def _write(self) -> None:
        self.check_finite()
        step, count = self.window[-1][0], len(self.window)
        metrics = jax.device_get([metrics for _, metrics in self.window])
        means = jax.tree.map(lambda *values: np.mean(values, axis=0), *metrics)
        offset = means.pop("y0_offset")
        now = time.perf_counter()
        seconds = now - self.window_start - self.window_apart
        scalars = {name: float(value) for name, value in means.items()}
        scalars |= {f"y0_offset_{c}": float(v) for c, v in zip("rgb", offset, strict=True)}
        scalars |= {"input_wait": self.window_waited / seconds, "steps_per_sec": count / seconds}
        speed = self.flops * count / seconds
        scalars["tflops_per_device"] = speed / 1e12
        if chip := machine.CHIPS.get(jax.devices()[0].device_kind):
            scalars["flops_utilisation"] = speed / chip.flops
        if (memory := machine.memory_gib()) is not None:
            scalars["memory_gib"] = memory
        self.writer.write_scalars(step, scalars)
        left = datetime.timedelta(seconds=round((self.plan.steps - step) * seconds / count))
        told = "step %d of %d, %.3g steps/s, ETA %s"
        logging.info(told, step, self.plan.steps, count / seconds, left)
        self.totals["waited for input"] += self.window_waited
        self.window, self.window_start = [], now
        self.window_waited = self.window_apart = 0.0
        if step > self.plan.warn_from and np.abs(offset).max() > self.plan.offset_warning:
            logging.log_every_n_seconds(
                logging.WARNING,
                "Step %d: predicted colours are off the input by %s in R, G, B (on [-1, 1]); "
                "samples will be tinted. Train longer, enlarge the batch, or use the mask.",
                _SECONDS_BETWEEN_WARNINGS,
                step,
                np.array2string(offset, precision=3, sign="+"),
            )
