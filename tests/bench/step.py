"""Times our SR3 against its PyTorch twin on this machine: python -m tests.bench.step --net small.

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
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.bench.torch_sr3 import TorchSR3, golden_error, train_step
from tests.golden.recipe import recipe

LEARNING_RATE = 1e-4
SEED = 0
CORES = os.cpu_count() or 1


class Net(NamedTuple):
    """What is run: the hyper-parameters are in the order that both networks take them."""

    hyper: tuple[Any, ...]
    batch: int
    calls: int  # in one turn


NETS = {
    "small": Net((32, (1, 2, 4), 1, (16,), 64, 32), 4, 5),
    "16_128": Net((64, (1, 2, 4, 8, 8), 2, (16,), 128, 32), 1, 2),
}
Batch = dict[str, np.ndarray]  # in order: hr, lr_up, noise (B, H, W, 3), level (B,)
Side = tuple[Callable[[], np.ndarray], Callable[[], float]]  # forward, step


def torch_side(net: Net, entries: dict[str, np.ndarray], batch: Batch) -> Side:
    """The twin on all cores, channels first as the reference."""
    torch.set_num_threads(CORES)
    twin = TorchSR3(*net.hyper)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in entries.items()})
    adam = torch.optim.Adam(twin.parameters(), LEARNING_RATE)
    level = torch.from_numpy(batch["level"])
    pictures = (batch[name].transpose(0, 3, 1, 2).copy() for name in ("hr", "lr_up", "noise"))
    hr, lr_up, noise = map(torch.from_numpy, pictures)

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return twin(noise, level, lr_up).numpy().transpose(0, 2, 3, 1)

    return forward, lambda: float(train_step(twin, adam, hr, lr_up, level, noise))


def jax_side(net: Net, entries: dict[str, np.ndarray], batch: Batch) -> Side:
    """Ours, with the product's training step, split over virtual devices if the batch divides."""
    import jax
    import jax.numpy as jnp
    import optax

    from yoda_jax.diffusion.loss import Diagnostics
    from yoda_jax.models.sr3 import SR3UNet
    from yoda_jax.training import sharding
    from yoda_jax.training.state import create
    from yoda_jax.training.step import make_train_step
    from yoda_jax.weights.sr3 import from_reference

    sharding.use_all_cpu_cores(net.batch)
    mesh = sharding.make_mesh()
    replicated = sharding.replicated(mesh)
    network = SR3UNet(*net.hyper)
    adam = optax.adam(LEARNING_RATE)

    def predict(module, z, level, lr_up):
        return module(z, level, module.condition(lr_up, lr_up))

    def loss(params, key, batch):
        level, noise = batch["level"], batch["noise"]
        g = level[:, None, None, None]
        z = g * batch["hr"] + jnp.sqrt(1 - g**2) * noise
        eps = network.apply({"params": params}, z, level, batch["lr_up"], method=predict)
        return jnp.abs(noise - eps).mean(), Diagnostics(jnp.ones(()), jnp.zeros(3))

    placed = sharding.place(mesh, batch)
    lr_up, noise, level = (placed[name] for name in ("lr_up", "noise", "level"))
    init = partial(network.init, method=predict)
    shapes = jax.eval_shape(init, jax.random.key(0), noise, level, lr_up)["params"]
    params = jax.device_put(from_reference(network, entries, shapes), replicated)
    weights = jax.tree.map(jnp.copy, params)  # the step gives its own away
    state = jax.device_put(create(weights, adam, ema=False), replicated)
    key = jax.device_put(jax.random.key(0), replicated)
    run = jax.jit(lambda p, *inputs: network.apply({"params": p}, *inputs, method=predict))
    started = time.perf_counter()
    forward = run.lower(params, noise, level, lr_up).compile()
    print(f"jax: forward compiled in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    step = jax.jit(make_train_step(loss, adam, ema_decay=0.0), donate_argnums=0)
    step = step.lower(state, placed, key).compile()
    print(f"jax: step compiled in {time.perf_counter() - started:.1f} s")

    def train() -> float:
        nonlocal state
        state, metrics = step(state, placed, key)
        return float(metrics["loss"])

    return lambda: np.asarray(forward(params, noise, level, lr_up)), train


SIDES = {"torch": torch_side, "jax": jax_side}


def serve(pipe: Connection, side: str, net: Net, shapes: list, batch: Batch) -> None:
    """In a process of its own: prepares a side, then makes the calls that the pipe asks for.

    Answers the preparation and each call with (result, wall seconds, CPU seconds).
    """

    def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        return function(), time.perf_counter() - wall, time.process_time() - cpu

    entries = recipe(shapes, SEED)
    (forward, step), *seconds = timed(partial(SIDES[side], net, entries, batch))
    pipe.send((None, *seconds))
    while name := pipe.recv():
        pipe.send(timed(forward if name == "forward" else step))
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


def check(pipes: dict[str, Connection]) -> None:
    """Raises unless both sides give one output and, over three steps, one loss."""
    outputs = {side: ask(pipe, "forward")[0] for side, pipe in pipes.items()}
    error = np.abs(outputs["jax"] - outputs["torch"]).max() / np.abs(outputs["torch"]).max()
    losses = {side: [ask(pipe, "step")[0] for _ in range(3)] for side, pipe in pipes.items()}
    print(f"checked: ours on the twin's weights, largest error {error:.1e} of the largest output")
    print(f"checked: losses of three steps {losses}")
    np.testing.assert_array_less(error, 1e-4)
    np.testing.assert_allclose(losses["jax"], losses["torch"], rtol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    net = NETS[flags.net]
    print(f"checked: the twin on the reference's golden file, error {golden_error():.1e}")
    with torch.device("meta"):
        shapes = [(k, tuple(v.shape)) for k, v in TorchSR3(*net.hyper).state_dict().items()]
    rng, size = np.random.default_rng(SEED), net.hyper[4]
    shape = (net.batch, size, size, 3)
    batch = {k: rng.standard_normal(shape, np.float32) for k in ("hr", "lr_up", "noise")}
    batch["level"] = rng.uniform(0.1, 0.9, net.batch).astype(np.float32)

    pipes = {side: start(side, net, shapes, batch) for side in SIDES}
    for side, pipe in pipes.items():
        print(f"{side}: ready after {pipe.recv()[1]:.1f} s")
    check(pipes)
    parameters = sum(int(np.prod(shape)) for _, shape in shapes)
    print(
        f"{flags.net}: {parameters:,} parameters, batch {net.batch} of {size}x{size}, float32, "
        f"no dropout, no EMA; torch {version('torch')}, jax {version('jax')}, {CORES} cores of "
        f"{platform.processor() or platform.machine()}\n{flags.rounds} rounds of {net.calls} calls "
        "a side, of which the fastest counts; medians over the rounds"
    )
    for name in ("forward", "step"):
        rounds: dict[str, list[tuple[float, float]]] = {side: [] for side in pipes}
        for i in range(flags.rounds):
            for side in list(pipes)[:: 1 if i % 2 else -1]:
                rounds[side].append(min(ask(pipes[side], name)[1:] for _ in range(net.calls)))
        for side, seconds in rounds.items():
            wall, cpu = np.median(seconds, axis=0) * 1e3
            print(f"{name:8}{side:6} wall {wall:7.1f} ms   CPU {cpu:7.1f} ms")
        ratios = [o[0] / t[0] for o, t in zip(rounds["jax"], rounds["torch"], strict=True)]
        low, middle, high = np.quantile(ratios, (0, 0.5, 1))
        print(f"{name:8}jax/torch of paired rounds: {middle:.2f}, from {low:.2f} to {high:.2f}")
    for side, pipe in pipes.items():
        pipe.send("")
        print(f"{side:6} peak memory of the process {pipe.recv():.0f} MiB")


if __name__ == "__main__":
    main()
