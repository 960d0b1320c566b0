"""Our SRDiff as a side of the benchmark, split over virtual devices if the batch divides."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tests.bench.jax_training import Training, compiled
from tests.bench.side import Batch, Entries, Side
from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.models.srdiff import SRDiffUNet
from yoda_jax.training import sharding
from yoda_jax.weights.public import from_public


def side(hyper: tuple[Any, ...], entries: Entries, batch: Batch) -> Side:
    """The calls of `tests.bench.torch_srdiff.side`, on a batch of its `draw`."""
    sharding.use_all_cpu_cores([len(batch["lr"])])
    mesh = sharding.make_mesh()
    network = SRDiffUNet(*hyper)

    def condition(net: SRDiffUNet, batch: Batch) -> Float[Array, "B H W features"]:
        if "features" in batch:
            return net.projection(batch["features"])
        return net.condition(net.encode(batch["lr"]), batch["residual"])

    def predict(net: SRDiffUNet, batch: Batch) -> Float[Array, "B H W 3"]:
        s = batch["signal"][:, None, None, None]
        z = s * batch["residual"] + jnp.sqrt(1 - s**2) * batch["noise"]
        return net(z, batch["level"], condition(net, batch), train=True)

    def loss(params, key, batch):
        eps = nn.apply(predict, network)({"params": params}, batch)
        value = jnp.abs(batch["noise"] - eps).mean()
        return value, Diagnostics(jnp.ones(()), jnp.zeros(3))

    def features_of(net: SRDiffUNet, lr: Array) -> Float[Array, "B h w C"]:
        return jnp.concatenate(net.encoder.features_of(lr)[2::3], axis=-1)

    placed = sharding.share_out(mesh, batch)
    shapes = jax.eval_shape(nn.init(predict, network), jax.random.key(0), placed)["params"]
    params = from_public(network, entries, shapes)
    params = jax.device_put(params, sharding.replicated(mesh))
    variables = {"params": params}

    conditioned = compiled("condition", nn.apply(condition, network), variables, placed)
    z, level, made = placed["noise"], placed["level"], conditioned(variables, placed)
    forward = compiled("forward", network.apply, variables, z, level, made)
    features = jax.jit(nn.apply(features_of, network))(variables, placed["lr"])
    given = {**placed, "features": features}
    training = Training(mesh, params, tuple(network.parts))
    return {
        "condition": lambda: np.asarray(conditioned(variables, placed)),
        "forward": lambda: np.asarray(forward(variables, z, level, made)),
        "step": training.call("step", loss, given),
        "whole": training.call("whole", loss, placed),
    }
