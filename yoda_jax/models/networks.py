"""The networks by name, made from hyper-parameters by name.

Where `diffuses` is true, a network has `condition(lr, lr_up)`, called once a picture,
`__call__(z, level, condition, train)`, called each step, and `continuous_level`: whether its level
is sqrt(gamma) or the step. Else it has `__call__(lr)`. All have `reduction`, by which sizes of HR
pictures must be divisible; `parts`, parameters that another network's training makes; and
`problem()`, which says what is wrong with the hyper-parameters, if anything.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.models.srdiff import SRDiffUNet

Network = SR3UNet | SRDiffUNet | RRDBNet
NETWORKS: dict[str, type[Network]] = {"sr3": SR3UNet, "srdiff": SRDiffUNet, "rrdb": RRDBNet}


def make_network(name: str, values: Mapping[str, Any]) -> Network:
    """The network called `name`, with those of the values that are its hyper-parameters."""
    network = NETWORKS[name]
    fields = {field.name for field in dataclasses.fields(network)} - {"name", "parent"}
    return network(**{key: value for key, value in values.items() if key in fields})
