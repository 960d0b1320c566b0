"""train: pre-computes what is missing, trains or resumes, samples, evaluates."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from clu import metric_writers, parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from yoda_jax.data.batches import Batches, whole
from yoda_jax.data.records import Records
from yoda_jax.evaluation.report import picture_grid
from yoda_jax.jobs import build, evaluate, parts, precompute, validation
from yoda_jax.jobs.progress import Progress
from yoda_jax.prefetch import prefetch
from yoda_jax.sampling import BatchSampler
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import TrainState, create
from yoda_jax.training.step import make_train_step


def run(config: ConfigDict, workdir: str) -> None:
    """The whole way from pictures to an evaluated checkpoint, from wherever a run has ended."""
    config = parts.complete(config, workdir)
    check_batches(config)
    precompute.run(config, workdir)
    fit(config, workdir)
    evaluate.run(config, workdir)


def check_batches(config: ConfigDict) -> None:
    """Raises UserError where the devices cannot share out the batches of training or evaluation."""
    mesh, train = sharding.make_mesh(), config.train
    sharding.check_batch(mesh, "train.batch_size", train.batch_size, train.accumulate)
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)


def make_state(
    config: ConfigDict, method: build.Method, mesh: Mesh
) -> tuple[Callable[[], TrainState], object]:
    """(a function that makes the first state on the mesh, its shapes with their shardings)."""
    optimizer = build.optimizer(config)

    def init() -> TrainState:
        params = method.init(jax.random.key(config.seed), config.data.hr_size // config.data.scale)
        return create(params, optimizer, config.train.ema_decay > 0)

    shapes = jax.eval_shape(init)
    shardings = sharding.state_shardings(mesh, shapes, config.train.sharding)
    abstract = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    return jax.jit(init, out_shardings=shardings), abstract


def compiled_step(
    config: ConfigDict, method: build.Method, mesh: Mesh, abstract: object
) -> Callable:
    """The jitted training step, with the state donated and kept where it lies."""
    step = make_train_step(
        method.loss, build.optimizer(config), config.train.ema_decay, config.train.accumulate
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
    mesh, method = sharding.make_mesh(), build.method(config)
    records = Records(build.record_folder(config, workdir, "train"))
    batches = Batches(
        records,
        batch_size=config.train.batch_size,
        seed=config.seed,
        aggregate=config.attention.aggregate,
        normalise_heads=config.attention.normalise_heads,
        patch=config.data.patch,
        flip=config.data.flip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )
    init, abstract = make_state(config, method, mesh)
    folder = Path(workdir) / "checkpoints"
    with Checkpoints(folder, config.train.keep_checkpoints) as checkpoints:
        latest = checkpoints.latest()
        first = latest or 0
        if latest is not None:
            saved = checkpoints.config()
            # An imported checkpoint is fine-tuned with any mask, on any records.
            validation.check_trained_with(config, saved, workdir, "records" in saved)
            if "records" in saved:
                validation.check_trained_on(records.manifest["settings"], saved["records"], workdir)
        if first >= config.train.steps:
            logging.info("%s has its %d steps already", workdir, first)
            return
        batches(first)  # a record that does not fit ends the job here, before any compilation
        fresh = latest is None
        state = parts.load(config, init()) if fresh else checkpoints.restore(abstract)
        logging.info(
            "%s at step %d of %d", "starting" if fresh else "resumed", first, config.train.steps
        )
        # The log gets the figures alone, TensorBoard also configuration, parameters and pictures.
        boards = [] if jax.process_index() else [metric_writers.SummaryWriter(workdir)]
        board = metric_writers.AsyncMultiWriter(boards)
        if first == 0:
            _write_overview(board, config, state, workdir)
        grid = None
        if config.train.sample_every:
            grid = _GridWriter(config, method, mesh, workdir, board)

        logging.info("compiling the step")
        train_step = compiled_step(config, method, mesh, abstract)
        key = jax.random.key(config.seed + 1)
        steps = range(first, config.train.steps)
        stream = prefetch(
            lambda step: sharding.place(mesh, batches(step)), iter(steps), config.data.prefetch
        )
        with metric_writers.ensure_flushes(board):
            progress = Progress(config, board, workdir)
            for step in steps:
                batch = progress.next_batch(stream)
                state, metrics = train_step(state, batch, key)
                progress.after_dispatch(step + 1, metrics)
                if progress.due(step + 1, config.train.checkpoint_every):
                    progress.check_finite()
                    made_with = {"records": records.manifest["settings"]}
                    checkpoints.save(state, step + 1, config.to_dict() | made_with)
                if grid and progress.due(step + 1, config.train.sample_every):
                    progress.check_finite()
                    grid.write(step + 1, state)
            progress.finish()


class _GridWriter:
    """Samples the first held-out pictures with the averaged parameters, as a TensorBoard image."""

    def __init__(
        self,
        config: ConfigDict,
        method: build.Method,
        mesh: Mesh,
        workdir: str,
        writer: metric_writers.MetricWriter,
    ) -> None:
        self.writer = writer
        records = Records(build.record_folder(config, workdir, "eval"))
        # As many as asked, rounded up to what the devices share out.
        count = -(-config.train.sample_pictures // mesh.size) * mesh.size
        local = np.array_split(np.arange(count), jax.process_count())[jax.process_index()]
        self.ids, self.seed = local, config.seed
        self.rows = whole(
            records,
            [int(i) % len(records) for i in local],
            config.attention.aggregate,
            config.attention.normalise_heads,
        )
        self.sampler = BatchSampler(method, mesh)

    def write(self, step: int, state: TrainState) -> None:
        inputs = {key: self.rows[key] for key in ("lr", "attention")}
        pictures = self.sampler(state.eval_params, self.ids, inputs, self.seed)
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
