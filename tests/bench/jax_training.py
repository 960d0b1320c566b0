"""Our side's common parts: compiling on all CPU cores, and the product's training step."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tests.bench.side import LEARNING_RATE
from yoda_jax.training import sharding
from yoda_jax.training.state import Params, create, make_optimizer
from yoda_jax.training.step import Batch, Loss, make_train_step


def compiled(name: str, function: Callable, *inputs: Any, **options: Any) -> Callable:
    """The function compiled for these inputs; prints the time that it took."""
    started = time.perf_counter()
    ready = jax.jit(function, **options).lower(*inputs).compile()
    print(f"jax: {name} compiled in {time.perf_counter() - started:.1f} s")
    return ready


class Training:
    """The product's training step on a copy of the parameters, which all its calls train."""

    def __init__(self, mesh: Mesh, params: Params, frozen: Sequence[str] = ()) -> None:
        schedule = optax.constant_schedule(LEARNING_RATE)
        self.optimizer = make_optimizer(schedule, weight_decay=0, clip_norm=0, frozen=frozen)
        copied = jax.tree.map(jnp.copy, params)  # a step gives its own state away
        replicated = sharding.replicated(mesh)
        self.state = jax.device_put(create(copied, self.optimizer, ema=False), replicated)
        self.key = jax.device_put(jax.random.key(0), replicated)

    def call(self, name: str, loss: Loss, batch: Batch) -> Callable[[], float]:
        """A call that does one step on the batch and returns its loss."""
        step = make_train_step(loss, self.optimizer, ema_decay=0.0)
        step = compiled(name, step, self.state, batch, self.key, donate_argnums=0)

        def train() -> float:
            self.state, metrics = step(self.state, batch, self.key)
            return float(metrics["loss"])

        return train
