"""The golden arrays of the tiny SRDiff network, channels last, and the networks that made them."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from golden.recipe import recipe

from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.models.srdiff import SRDiffUNet
from yoda_jax.weights.public import from_public

GOLDEN = Path(__file__).parent / "srdiff_tiny.npz"
KEYS = Path(__file__).parent / "srdiff_keys.json"


def load_golden() -> dict[str, np.ndarray]:
    """Pictures turned to (B, H, W, C); gradients in our layout (none is a transposed one's)."""
    arrays = {}
    with np.load(GOLDEN) as file:
        for name, value in file.items():
            if name.startswith("grad/"):
                axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,))
                arrays[name] = value.transpose(axes)
            elif value.ndim >= 4:
                arrays[name] = np.moveaxis(value, -3, -1)
            else:
                arrays[name] = value
    return arrays


def network(**changes) -> SRDiffUNet:
    """The network of the golden file."""
    sizes = dict(features=16, multipliers=(1, 2, 2), encoder_features=16, encoder_blocks=2, scale=4)
    return SRDiffUNet(**sizes | changes)


def encoder() -> RRDBNet:
    """The encoder alone, as it is trained before the UNet."""
    return RRDBNet(features=16, blocks=2, scale=4)


def shapes_of(net: SRDiffUNet | RRDBNet) -> dict:
    """The shapes of a network's parameters, without making any."""
    lr, lr_up = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8 * net.scale, 8 * net.scale, 3))

    def run(net):
        if isinstance(net, RRDBNet):
            return net(lr)
        return net(lr_up, jnp.ones(1), net.condition(net.encode(lr), lr_up))

    return jax.eval_shape(nn.init(run, net), jax.random.key(0))["params"]


def drawn_entries() -> dict[str, np.ndarray]:
    """The weights of the golden file under the reference's names, by the recipe."""
    entries = json.loads(KEYS.read_text())["tiny"]["entries"]
    return recipe([(k, tuple(s)) for k, s in entries.items()], seed=2345, gain=1.0)


def parameters() -> dict:
    """Parameters of `network()`, those of `encoder()` as its encoder."""
    return from_public(network(), drawn_entries(), shapes_of(network()))
