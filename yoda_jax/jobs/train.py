"""train: pre-computes what is missing, trains or resumes, samples, evaluates."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from clu import metric_writers, parameter_overview, periodic_actions
from jax.sharding import Mesh
from ml_collections import ConfigDict

from yoda_jax.data.batches import Batches, prefetch
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.evaluation.report import picture_grid
from yoda_jax.jobs import build, evaluate, precompute
from yoda_jax.sampling import BatchSampler
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import TrainState, create
from yoda_jax.training.step import Metrics, make_train_step
from yoda_jax.yoda import Yoda

_PROFILE_STEPS = 5


def run(config: ConfigDict, workdir: str) -> None:
    """The whole way from pictures to an evaluated checkpoint, from wherever a run has ended."""
    sharding.check_batch(sharding.make_mesh(), config.train.batch_size, config.train.accumulate)
    precompute.run(config, workdir)
    fit(config, workdir)
    evaluate.run(config, workdir)


def make_state(
    config: ConfigDict, yoda: Yoda, mesh: Mesh
) -> tuple[Callable[[], TrainState], object]:
    """(a function that makes the first state on the mesh, its shapes with their shardings)."""
    optimizer = build.optimizer(config)

    def init() -> TrainState:
        params = yoda.init(jax.random.key(config.seed), config.data.hr_size // config.data.scale)
        return create(params, optimizer, config.train.ema_decay > 0)

    shapes = jax.eval_shape(init)
    shardings = sharding.state_shardings(mesh, shapes, config.train.sharding)
    abstract = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    return jax.jit(init, out_shardings=shardings), abstract


def compiled_step(config: ConfigDict, yoda: Yoda, mesh: Mesh, abstract: object) -> Callable:
    """The jitted training step, with the state donated and kept where it lies."""
    step = make_train_step(
        yoda.loss, build.optimizer(config), config.train.ema_decay, config.train.accumulate
    )
    where = jax.tree.map(lambda s: s.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(where, sharding.by_rows(mesh), sharding.replicated(mesh)),
        out_shardings=(where, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def fit(config: ConfigDict, workdir: str) -> None:
    """Trains up to train.steps on the complete records, from the newest checkpoint if any."""
    mesh, yoda = sharding.make_mesh(), build.yoda(config)
    records = Records(build.record_folders(config, workdir).train)
    batches = Batches(
        records, batch_size=config.train.batch_size, seed=config.seed,
        aggregate=config.attention.aggregate, normalise_heads=config.attention.normalise_heads,
        patch=config.data.patch, flip=config.data.flip, process_index=jax.process_index(),
        process_count=jax.process_count(), threads=config.data.threads,
    )  # fmt: skip
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", config.train.keep_checkpoints)
    init, abstract = make_state(config, yoda, mesh)
    first = checkpoints.latest() or 0
    if first >= config.train.steps:
        logging.info("%s has its %d steps already", workdir, first)
        return
    batches(first)  # a record that does not fit ends the job here, before anything is compiled
    state = checkpoints.restore(abstract) if first else init()
    logging.info("%s at step %d of %d", "resumed" if first else "starting", first,
                 config.train.steps)  # fmt: skip

    # The log gets the figures alone, TensorBoard also configuration, parameters and pictures.
    boards = [] if jax.process_index() else [metric_writers.SummaryWriter(workdir)]
    board = metric_writers.AsyncMultiWriter(boards)
    writer = metric_writers.MultiWriter([metric_writers.LoggingWriter(), board])
    if first == 0:
        _write_overview(board, config, state, workdir)
    train_step = compiled_step(config, yoda, mesh, abstract)
    loop = _Loop(config, writer, checkpoints, workdir)
    steps = range(first, config.train.steps)
    key = jax.random.key(config.seed + 1)
    grid = _GridWriter(config, yoda, mesh, workdir, board) if config.train.sample_every else None
    stream = prefetch(
        lambda step: sharding.place(mesh, batches(step)), iter(steps), config.data.prefetch
    )
    with metric_writers.ensure_flushes(writer):
        for step in steps:
            batch = loop.next_batch(stream)
            state, metrics = train_step(state, batch, key)
            loop.after_dispatch(step + 1, metrics)
            if loop.due(step + 1, config.train.checkpoint_every):
                loop.check_finite()
                checkpoints.save(state, step + 1, config.to_dict())
            if grid and loop.due(step + 1, config.train.sample_every):
                grid.write(step + 1, state)
        loop.finish()
    checkpoints.close()
    writer.close()


class _Loop:
    """What surrounds the step: waits, metrics, progress; never waits for the newest step."""

    def __init__(
        self,
        config: ConfigDict,
        writer: metric_writers.MetricWriter,
        checkpoints: Checkpoints,
        workdir: str,
    ) -> None:
        self.config, self.writer, self.workdir = config, writer, workdir
        self.progress = periodic_actions.ReportProgress(
            num_train_steps=config.train.steps, writer=writer, every_steps=config.train.log_every
        )
        self.window: list[tuple[int, Metrics]] = []
        self.waited, self.window_start = 0.0, time.perf_counter()
        self.total_waited, self.started = 0.0, 0.0

    def due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.config.train.steps

    def next_batch(self, stream) -> dict[str, jax.Array]:
        start = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - start
        return batch

    def after_dispatch(self, step: int, metrics: Metrics) -> None:
        """Keeps the metrics of a step and, when due, writes those of the window before it."""
        if self.window:
            # The device has this step to work at meanwhile; without this the host would run ahead.
            jax.block_until_ready(self.window[-1][1]["loss"])
        elif not self.started:  # what came before was compilation
            self.started = self.window_start = time.perf_counter()
            self.waited = 0.0
        self.window.append((step, metrics))
        self._profile(step)
        if self.due(step, self.config.train.log_every):
            self.write()
        self.progress(step)

    def check_finite(self) -> None:
        """Ends the run at the first step of the window whose loss is not finite."""
        for step, metrics in self.window:
            loss = float(metrics["loss"])
            if not np.isfinite(loss):
                self.writer.flush()
                raise UserError(
                    f"The loss of step {step} is {loss}, expected a finite value; lower "
                    "--config.train.learning_rate or set --config.train.clip_norm, and run again: "
                    f"the run goes on from its last checkpoint in {self.workdir}."
                )

    def write(self) -> None:
        """Writes the window's means and empties it."""
        self.check_finite()
        steps, metrics = zip(*self.window, strict=True)
        means = jax.tree.map(lambda *v: np.mean(np.asarray(v), axis=0), *metrics)
        offset = means.pop("y0_offset")
        now = time.perf_counter()
        seconds = now - self.window_start
        self.writer.write_scalars(
            steps[-1],
            {
                **{name: float(value) for name, value in means.items()},
                **{f"y0_offset_{c}": float(v) for c, v in zip("rgb", offset, strict=True)},
                "input_wait": self.waited / seconds,
            },
        )
        warmed_up = steps[-1] > self.config.train.warmup_steps
        if warmed_up and np.abs(offset).max() > self.config.train.offset_warning:
            logging.log_every_n_seconds(
                logging.WARNING,
                "Step %d: predicted colours are off the input by %s in R, G, B (on [-1, 1]); "
                "samples will be tinted. Train longer, enlarge the batch, or use the mask.",
                60, steps[-1], np.array2string(offset, precision=3, sign="+"),
            )  # fmt: skip
        self.total_waited += self.waited
        self.window, self.waited, self.window_start = [], 0.0, now

    def finish(self) -> None:
        """The share of time that the steps waited for input, over the whole run."""
        if self.window:
            self.write()
        share = self.total_waited / (time.perf_counter() - self.started)
        logging.info("waited for input %.2f %% of the training time", 100 * share)

    def _profile(self, step: int) -> None:
        at = self.config.train.profile_at
        if at and step == at:
            jax.profiler.start_trace(self.workdir)
        if at and step == at + _PROFILE_STEPS:
            jax.profiler.stop_trace()
            logging.info("profile of steps %d to %d in %s", at, step, self.workdir)


class _GridWriter:
    """Samples the first held-out pictures with the averaged parameters, as a TensorBoard image."""

    def __init__(
        self, config: ConfigDict, yoda: Yoda, mesh: Mesh, workdir: str,
        writer: metric_writers.MetricWriter,
    ) -> None:  # fmt: skip
        self.writer = writer
        records = Records(build.record_folders(config, workdir).eval)
        self.batches = evaluate.eval_batches(config, records)
        # As many as asked, rounded up to what the devices share out.
        count = -(-config.train.sample_pictures // mesh.size) * mesh.size
        local = np.array_split(np.arange(count), jax.process_count())[jax.process_index()]
        self.ids = local
        self.rows = self.batches.whole([int(i) % len(records) for i in local])
        self.sampler = BatchSampler(yoda, mesh, config.seed)

    def write(self, step: int, state: TrainState) -> None:
        inputs = {key: self.rows[key] for key in ("lr", "attention")}
        pictures = self.sampler(state.eval_params, self.ids, inputs)
        grid = picture_grid({**self.rows, "sr": pictures})
        self.writer.write_images(step, {"samples": grid[None]})


def _write_overview(
    writer: metric_writers.MetricWriter, config: ConfigDict, state: TrainState, workdir: str
) -> None:
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info("%s parameters (table: --mode=show, and in TensorBoard)", f"{count:,}")
    text = json.dumps(config.to_dict(), indent=2)
    writer.write_texts(0, {"config": f"```\n{text}\n```", "parameters": f"```\n{table}\n```"})
    if jax.process_index() == 0:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        part = Path(workdir) / "config.json.part"
        part.write_text(text)
        part.replace(Path(workdir) / "config.json")
