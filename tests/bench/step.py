"""Times a network of ours against its PyTorch twin on this machine.

    python -m tests.bench.step --net small

The two run in a process each and take turns, so that neither's idle threads nor other load on the
machine favours one: what counts is the median over rounds of the ratio within a round. First the
twin is checked on the golden file of the reference, and ours against the twin.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.bench import torch_sr3, torch_srdiff
from tests.bench.side import Batch
from tests.golden.recipe import recipe

SEED = 0
CORES = os.cpu_count() or 1


class Net(NamedTuple):
    """What is run: the hyper-parameters are in the order that both networks take them."""

    method: str
    hyper: tuple[Any, ...]
    batch: int
    calls: int  # in one turn
    gain: float  # of the weights' recipe


NETS = {
    "small": Net("sr3", (32, (1, 2, 4), 1, (16,), 64, 32), 4, 5, 2**0.5),
    "16_128": Net("sr3", (64, (1, 2, 4, 8, 8), 2, (16,), 128, 32), 1, 2, 2**0.5),
    "srdiff_df2k": Net("srdiff", (64, (1, 2, 3, 4), 64, 17, 4), 2, 2, 1.0),
    "srdiff_celeba": Net("srdiff", (64, (1, 2, 2, 4), 32, 8, 8), 2, 2, 1.0),
}
TWINS = {"sr3": (torch_sr3, torch_sr3.TorchSR3), "srdiff": (torch_srdiff, torch_srdiff.TorchSRDiff)}
SIDES = ("torch", "jax")


def serve(pipe: Connection, side: str, net: Net, shapes: list, batch: Batch) -> None:
    """In a process of its own: prepares a side, then makes the calls that the pipe asks for.

    Answers the preparation with (names of the calls, wall seconds, CPU seconds), and each call
    with its result in place of the names.
    """

    def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        return function(), time.perf_counter() - wall, time.process_time() - cpu

    torch.set_num_threads(CORES)
    # JAX is loaded in its own side's process alone.
    prepare = import_module(f"tests.bench.{side}_{net.method}").side
    entries = recipe(shapes, SEED, net.gain)
    calls, *seconds = timed(partial(prepare, net.hyper, entries, batch))
    pipe.send((list(calls), *seconds))
    while name := pipe.recv():
        pipe.send(timed(calls[name]))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def start(side: str, *problem: Any) -> Connection:
    """The parent's end of the pipe to a new process that serves a side."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(theirs, side, *problem), daemon=True).start()
    return ours


def ask(pipe: Connection, name: str) -> tuple[Any, float, float]:
    pipe.send(name)
    return pipe.recv()


def check(pipes: dict[str, Connection], name: str) -> None:
    """Raises unless a call gives one array, or over three steps one loss, on both sides."""
    results = {side: [ask(pipe, name)[0] for _ in range(3)] for side, pipe in pipes.items()}
    if isinstance(results["torch"][0], float):
        print(f"checked: {name}, losses of three steps {results}")
        np.testing.assert_allclose(results["jax"], results["torch"], rtol=1e-3)
        return
    ours, theirs = results["jax"][0], results["torch"][0]
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"checked: {name}, ours on the twin's weights, error {error:.1e} of the largest output")
    np.testing.assert_array_less(error, 1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    net = NETS[flags.net]
    module, twin = TWINS[net.method]
    print(f"checked: the twin on the reference's golden file, error {module.golden_error():.1e}")
    with torch.device("meta"):
        shapes = [(k, tuple(v.shape)) for k, v in twin(*net.hyper).state_dict().items()]
    batch = module.draw(np.random.default_rng(SEED), net.hyper, net.batch)

    pipes = {side: start(side, net, shapes, batch) for side in SIDES}
    for side, pipe in pipes.items():
        names, seconds, _ = pipe.recv()
        print(f"{side}: ready after {seconds:.1f} s")
    for name in names:
        check(pipes, name)
    parameters = sum(int(np.prod(shape)) for _, shape in shapes)
    size = batch["noise"].shape[1]
    print(
        f"{flags.net}: {parameters:,} parameters, batch {net.batch} of {size}x{size}, float32, "
        f"no dropout, no EMA; torch {version('torch')}, jax {version('jax')}, {CORES} cores of "
        f"{platform.processor() or platform.machine()}\n{flags.rounds} rounds of {net.calls} calls "
        "a side, of which the fastest counts; medians over the rounds"
    )
    for name in names:
        rounds: dict[str, list[tuple[float, float]]] = {side: [] for side in pipes}
        for i in range(flags.rounds):
            for side in list(pipes)[:: 1 if i % 2 else -1]:
                rounds[side].append(min(ask(pipes[side], name)[1:] for _ in range(net.calls)))
        for side, seconds in rounds.items():
            wall, cpu = np.median(seconds, axis=0) * 1e3
            print(f"{name:10}{side:6} wall {wall:7.1f} ms   CPU {cpu:7.1f} ms")
        ratios = [o[0] / t[0] for o, t in zip(rounds["jax"], rounds["torch"], strict=True)]
        low, middle, high = np.quantile(ratios, (0, 0.5, 1))
        print(f"{name:10}jax/torch of paired rounds: {middle:.2f}, from {low:.2f} to {high:.2f}")
    for side, pipe in pipes.items():
        pipe.send("")
        print(f"{side:6} peak memory of the process {pipe.recv():.0f} MiB")


if __name__ == "__main__":
    main()
