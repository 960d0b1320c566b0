"""train: pre-computes what is missing, trains or resumes, evaluates on the way and at the end."""

import contextlib
import json
from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from clu import metric_writers, parameter_overview
from ml_collections import ConfigDict

from yoda_jax import preemption
from yoda_jax.compatibility import check_finished, check_trained_with, completed, renamed
from yoda_jax.configuration import build, fields, inference, restore
from yoda_jax.data.contents import difference
from yoda_jax.errors import UserError
from yoda_jax.evaluation.comparison import Comparison
from yoda_jax.evaluation.report import summarise
from yoda_jax.jobs import evaluate, precompute
from yoda_jax.method import Method
from yoda_jax.prefetch import prefetch
from yoda_jax.processes import is_first
from yoda_jax.runs import Run, write_whole
from yoda_jax.training import machine, sharding
from yoda_jax.training.events import event_board
from yoda_jax.training.progress import Progress
from yoda_jax.training.state import TrainState

_LOGGED = ("psnr", "ssim", "lpips", "colour_shift")  # of the evaluations on the way


def run(config: ConfigDict, workdir: str) -> None:
    """The whole way from pictures to an evaluated checkpoint, from wherever a run has ended."""
    fields.check_batches(config)
    precompute.run(config, workdir)
    fit(config, workdir)
    evaluate.run(config, workdir)


def fit(config: ConfigDict, workdir: str) -> None:
    """Trains up to train.steps on the complete records, from the newest checkpoint if any."""
    where, mesh, method = Run(workdir), sharding.make_mesh(), inference.method(config)
    plan, records = build.plan(config), build.records(config, where, "train")
    batches = build.batches(config, records, jax.process_index(), jax.process_count())
    made_with = config.to_dict() | {"records": records.manifest["settings"]}
    init, abstract = build.state(config, method, mesh)
    with contextlib.ExitStack() as stack:
        something_to_save = stack.enter_context(preemption.training())
        checkpoints = stack.enter_context(build.checkpoints(config, where))
        latest = checkpoints.latest()
        first, fresh = latest or 0, latest is None
        finished = first >= plan.steps
        if not fresh:
            _check(made_with, completed(checkpoints.config()), where, finished)
        if finished:
            logging.info("%s has its %d steps already", where, first)
            return
        batches(first)  # a record that does not fit ends the job here, before any compilation
        state = restore.put_encoder(config, init()) if fresh else checkpoints.restore(abstract)
        logging.info("%s at step %d of %d", "starting" if fresh else "resumed", first, plan.steps)
        # The log gets the figures alone, TensorBoard also configuration, parameters and pictures.
        board, publish = stack.enter_context(event_board(where.folder))
        _write_overview(board, config, state, where, first)
        evaluation = _evaluation(config, where, method, board) if plan.eval_every else None

        everywhere = sharding.replicated(mesh)
        key = jax.jit(lambda: jax.random.key(config.seed + 1), out_shardings=everywhere)()
        steps = range(first, plan.steps)
        stream = prefetch(
            lambda step: sharding.share_out(mesh, batches(step)), steps, config.data.prefetch
        )
        logging.info("compiling the step")
        _, train_step = build.compiled_step(config, method, mesh, abstract)
        something_to_save()
        if evaluation and plan.due(first, plan.eval_every) and not checkpoints.evaluated(first):
            evaluation(first, state)  # a stop had cut it
        flops = machine.flops(train_step, config.train.accumulate)
        progress = Progress(plan, board, str(where), flops)
        for step in steps:
            batch = progress.next_batch(stream)
            # Data goes to a device where the stream puts it and comes back where metrics are got.
            with jax.transfer_guard("disallow"):
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = train_step(state, batch, key)
                progress.after_dispatch(step + 1, metrics)
            stopped, figures = preemption.reached(), None
            evaluated = plan.due(step + 1, plan.eval_every)
            if stopped or evaluated or plan.due(step + 1, plan.checkpoint_every):
                progress.check_finite()
                if evaluated and not stopped:
                    with progress.apart("evaluation"):
                        figures = evaluation(step + 1, state)
                    stopped = figures is None
                logging.info("saving the checkpoint of step %d", step + 1)
                with progress.apart("checkpoint"):
                    checkpoints.save(state, step + 1, made_with, figures)
                    publish()
            if stopped:
                logging.info("stopped at step %d of %d", step + 1, plan.steps)
                break
        progress.finish()


def _check(asked: dict, saved: dict, where: Run, finished: bool) -> None:
    """Raises UserError where a checkpoint is not one that this training can go on from."""
    imported = "records" not in saved  # it is fine-tuned with any mask, on any records
    check_trained_with(asked, saved, where, training=not imported)
    if imported:
        return
    if name := difference(saved["records"], asked["records"]):
        then, now = renamed(saved["records"]).get(name), asked["records"].get(name)
        raise UserError(
            f"The checkpoint in {where} was trained on records made with {name}={then!r}, those of "
            f"this run were made with {now!r}; use those records, or another --workdir."
        )
    if finished:
        check_finished(asked, saved, where)


def _evaluation(
    config: ConfigDict, where: Run, method: Method, board: metric_writers.MetricWriter
) -> Callable[[int, TrainState], dict[str, float] | None]:
    """Figures and pictures of few held-out examples on the way, in log and TensorBoard."""
    mesh, count = sharding.make_mesh(), config.train.eval_pictures
    held_out, measure = build.held_out(config, where, count, count), build.measure(config)

    def evaluate_at(step: int, state: TrainState) -> dict[str, float] | None:
        """The means over pictures, of the parameters that are sampled with; None where stopped."""
        compared = Comparison(held_out, measure, mesh, len(held_out.indices))
        try:
            stop = preemption.check_stop
            row = compared.add("SR", method, state.eval_params, config.seed, stop)
        except preemption.Stopped:
            return None
        summaries = summarise([row], held_out.names)
        figures = {m: summaries[m].mean(0)[0] for m in _LOGGED}
        text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        logging.info("step %d, %d held-out examples: %s", step, len(held_out.indices), text)
        if is_first():
            board.write_scalars(step, {f"eval/{m}": v for m, v in figures.items()})
            board.write_images(step, {"samples": np.asarray(compared.sheet(None))[None]})
        return figures

    return evaluate_at


def _write_overview(
    board: metric_writers.MetricWriter, config: ConfigDict, state: TrainState, where: Run, step: int
) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logging.info("%s parameters (table: --mode=show, and in TensorBoard)", f"{count:,}")
    if not is_first():
        return
    text = json.dumps(config.to_dict() | {"machine": machine.description()}, indent=2)
    write_whole(where.configuration, text.encode())
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    board.write_texts(step, {"config": f"```\n{text}\n```", "parameters": f"```\n{table}\n```"})
