"""Residual dense networks trained as GANs by others: an .npz of weights and Keras's topology."""

import json
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def load(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """What makes HR pictures of LR pictures, both of 8 bits (h w 3), layer by layer."""
    with np.load(path) as file:
        layers = json.loads(bytes(file["topology"]).decode())["layers"]
        weights = {name: jnp.asarray(file[name]) for name in file.files if name != "topology"}

    @jax.jit
    def run(lr: jax.Array) -> jax.Array:
        made = {}
        for layer in layers:
            settings, name = layer["config"], layer["name"]
            seen = [made[node[0]] for inbound in layer["inbound_nodes"] for node in inbound]
            match layer["class_name"]:
                case "InputLayer":
                    made[name] = lr
                case "Conv2D":
                    kernel, bias = weights[f"{name}.kernel"], weights[f"{name}.bias"]
                    x = jax.lax.conv_general_dilated(
                        *(seen[0], kernel, (1, 1), settings["padding"].upper()),
                        dimension_numbers=_DIMENSIONS,
                    )
                    made[name] = _activated(x + bias, settings["activation"])
                case "Activation":
                    made[name] = _activated(seen[0], settings["activation"])
                case "Add":
                    made[name] = sum(seen[1:], seen[0])
                case "Concatenate":
                    made[name] = jnp.concatenate(seen, axis=-1)
                case "UpSampling2D":
                    rows, columns = settings["size"]
                    made[name] = seen[0].repeat(rows, axis=1).repeat(columns, axis=2)
                case other:
                    raise ValueError(f"{path} holds a layer of the kind {other}")
        return jnp.rint(255 * made[layers[-1]["name"]].clip(0, 1)).astype(jnp.uint8)

    return lambda lr: np.asarray(run(jnp.asarray(lr, jnp.float32)[None] / 255))[0]


def _activated(x: jax.Array, name: str) -> jax.Array:
    return {"relu": jax.nn.relu, "linear": lambda v: v, "sigmoid": jax.nn.sigmoid}[name](x)
