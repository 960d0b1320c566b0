"""Our SR3 as a side of the benchmark, split over virtual devices if the batch divides."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench.jax_training import Training, compiled
from tests.bench.side import Batch, Entries, Side
from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.training import sharding
from yoda_jax.weights.public import from_public


def side(hyper: tuple[Any, ...], entries: Entries, batch: Batch) -> Side:
    """`forward` and `step` on a batch of `tests.bench.torch_sr3.draw`."""
    sharding.use_all_cpu_cores([len(batch["hr"])])
    mesh = sharding.make_mesh()
    network = SR3UNet(*hyper)

    def predict(module, z, level, lr_up):
        return module(z, level, module.condition(lr_up, lr_up))

    def loss(params, key, batch):
        level, noise = batch["level"], batch["noise"]
        g = level[:, None, None, None]
        z = g * batch["hr"] + jnp.sqrt(1 - g**2) * noise
        eps = network.apply({"params": params}, z, level, batch["lr_up"], method=predict)
        return jnp.abs(noise - eps).mean(), Diagnostics(jnp.ones(()), jnp.zeros(3))

    placed = sharding.share_out(mesh, batch)
    inputs = [placed[name] for name in ("noise", "level", "lr_up")]
    init = partial(network.init, method=predict)
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)["params"]
    params = from_public(network, entries, shapes)
    params = jax.device_put(params, sharding.replicated(mesh))
    forward = compiled(
        "forward",
        lambda params, *inputs: network.apply({"params": params}, *inputs, method=predict),
        params,
        *inputs,
    )
    return {
        "forward": lambda: np.asarray(forward(params, *inputs)),
        "step": Training(mesh, params).call("step", loss, placed),
    }
