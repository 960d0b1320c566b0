"""The golden arrays of the tiny SR3 network, channels last, and the network that made them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from golden.recipe import recipe

from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.weights.public import from_public
from yoda_jax.weights.sr3 import reference_names

GOLDEN = Path(__file__).parent / "sr3_tiny.npz"
KEYS = Path(__file__).parent / "sr3_keys.json"


def load_golden() -> dict[str, np.ndarray]:
    """Pictures turned to (B, H, W, C); gradients and stepped parameters in our layout."""
    arrays = {}
    with np.load(GOLDEN) as file:
        for name, value in file.items():
            if name.startswith(("grad/", "adam1/")):
                axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,))
                arrays[name] = value.transpose(axes)
            elif value.ndim >= 4:
                arrays[name] = np.moveaxis(value, -3, -1)
            else:
                arrays[name] = value
    return arrays


def network(**changes) -> SR3UNet:
    """The network of the golden file."""
    sizes = dict(
        features=16,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_resolutions=(8,),
        image_size=32,
        groups=8,
    )
    return SR3UNet(**sizes | changes)


def parameters() -> dict:
    """Its parameters, drawn by the recipe under the reference's names and shapes."""
    net, x = network(), jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(
        lambda: net.init(
            jax.random.key(0),
            x,
            jnp.ones(1),
            method=lambda m, z, level: m(z, level, m.condition(z, z)),
        )["params"]
    )
    entries = json.loads(KEYS.read_text())["tiny"]["entries"]
    drawn = recipe([(name, tuple(shape)) for name, shape in entries.items()], seed=1234)
    assert set(drawn) == set(reference_names(net, shapes).values())
    return from_public(net, drawn, shapes)
