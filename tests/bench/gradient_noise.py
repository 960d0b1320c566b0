"""Noise of the gradient by the draw of t: python -m tests.bench.gradient_noise --workdir=RUN.

Of a run that was trained with the mask, at the steps of its checkpoints (0: as it was born): the
training gradient of the same batches under the same keys, with t uniform and with t by the mask's
area. Both have one expectation. Noise is the trace of the covariance over draws of t and eps,
divided by the squared norm of the mean gradient, for a batch of the run's size; the same of the
loss. Ratios are paired by batch, with 95 % intervals over batches.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict
from scipy import stats

from yoda_jax.configuration import build, inference, restore
from yoda_jax.runs import Run
from yoda_jax.yoda import Yoda

TIMES = ("uniform", "area")


class Draws(NamedTuple):
    """Of one batch and one way to draw t."""

    halves: np.ndarray  # (2, parameters): mean gradients of the even and the odd keys
    trace: float  # of the covariance of the gradient
    loss: float
    loss_variance: float


def draws(method: Yoda) -> Callable[..., Draws]:
    """A function of (params, batch, keys), compiled once."""

    @jax.jit
    def one(params, key, batch):
        loss, gradient = jax.value_and_grad(lambda p: method.loss(p, key, batch)[0])(params)
        return loss, ravel_pytree(gradient)[0]

    def all_of(params, batch, keys) -> Draws:
        sums, squares, losses = [0.0, 0.0], 0.0, []
        for i, key in enumerate(keys):
            loss, gradient = one(params, key, batch)
            gradient = np.asarray(gradient, np.float64)
            sums[i % 2] = sums[i % 2] + gradient
            squares += float(gradient @ gradient)
            losses.append(float(loss))
        count, total = len(keys), sums[0] + sums[1]
        trace = (squares - float(total @ total) / count) / (count - 1)
        halves = np.stack(sums) * 2 / count
        return Draws(halves, trace, float(np.mean(losses)), float(np.var(losses, ddof=1)))

    return all_of


def row(step: int, found: list[dict[str, Draws]]) -> str:
    """A line of the table: noise relative to the mean, and the ratio of both draws."""
    cells = []
    for kind in ("gradient", "loss"):
        noise = {t: np.array([_variance(batch[t], kind) for batch in found]) for t in TIMES}
        signal = np.mean([_signal(batch, kind) for batch in found])
        cells += [f"{noise[t].mean() / signal:.3g}" for t in TIMES]
        logs = np.log(noise["area"] / noise["uniform"])
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
        low, middle, high = np.exp(logs.mean() + half * np.array([-1, 0, 1]))
        cells.append(f"{middle:.2g} ({low:.2g} to {high:.2g})")
    return f"| {step} | {' | '.join(cells)} |"


def _variance(found: Draws, kind: str) -> float:
    return found.trace if kind == "gradient" else found.loss_variance


def _signal(batch: dict[str, Draws], kind: str) -> float:
    """Squared norm of the mean over both ways to draw; of halves with different keys: unbiased."""
    if kind == "loss":
        return np.mean([batch[t].loss for t in TIMES]) ** 2
    even, odd = np.mean([batch[t].halves for t in TIMES], axis=0)
    return float(even @ odd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of a run that has checkpoints")
    parser.add_argument("--records", default="", help="where its records lie, if not in it")
    parser.add_argument("--steps", type=int, nargs="+", default=[0], help="checkpoints; 0: none")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--draws", type=int, default=48, help="an even number, for each batch")
    args = parser.parse_args()
    run = Run(args.workdir)
    saved = restore.saved_configuration(run)
    config = ConfigDict({k: v for k, v in saved.items() if k not in ("records", "imported")})
    config.data.records = args.records or config.data.records
    config = restore.with_encoder(config, run)
    method, batches = (
        inference.method(config),
        build.batches(config, build.records(config, run, "train"), 0, 1),
    )
    measured = {
        t: draws(dataclasses.replace(method, mask=dataclasses.replace(method.mask, times=t)))
        for t in TIMES
    }
    print(
        f"{config.model.name}, batches of {config.train.batch_size}, {args.batches} batches, "
        f"{args.draws} draws each, {jax.devices()[0].device_kind}\n\n"
        "| step | gradient, uniform | by area | ratio | loss, uniform | by area | ratio |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    for step in args.steps:
        if step:
            params = restore.weights(config, run, step).params
        else:
            params = method.init(jax.random.key(config.seed), inference.lr_size(config))
        found = []
        for index in range(args.batches):
            batch = batches(index)
            keys = jax.random.split(jax.random.key(index), args.draws)
            found.append({t: of(params, batch, keys) for t, of in measured.items()})
        print(row(step, found), flush=True)


if __name__ == "__main__":
    main()
