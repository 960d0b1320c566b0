"""What a network is to the rest, and the networks by name, made from hyper-parameters by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from jaxtyping import Float, PyTree

from yoda_jax.arrays import Array
from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.models.sr3 import SR3UNet
from yoda_jax.models.srdiff import SRDiffUNet

Condition = PyTree[Float[Array, "B ..."]]


class Network(Protocol):
    """A Flax module that makes a picture of another: at once, or of noise where it diffuses.

    One that does not diffuse has no `encode`, `condition` and `continuous_level`: its __call__(lr)
    gives the HR picture. One with an encoder among its parts has `enlarge(lr)`, that one's picture.
    """

    diffuses: ClassVar[bool]
    """Whether it predicts noise, a call for each step."""
    continuous_level: ClassVar[bool]
    """Whether it is told sqrt(gamma) in (0, 1], or the step in 0..T-1."""
    parts: ClassVar[Mapping[str, str]]
    """Parameters that training leaves alone: the name of the network whose training makes each."""

    @property
    def reduction(self) -> int:
        """By which height and width of HR pictures must be divisible."""

    def problem(self) -> str | None:
        """What is wrong with the hyper-parameters, beginning with the name of one, if anything."""

    def encode(self, lr: Float[Array, "B h w 3"]) -> Float[Array, "B h w F"]:
        """What is made of the LR picture alone, at its size; F is 0 where that is nothing."""

    def condition(
        self, encoded: Float[Array, "B h w F"], lr_up: Float[Array, "B H W 3"]
    ) -> Condition:
        """All that a step needs of a picture, the same at all steps."""

    def __call__(
        self,
        z: Float[Array, "B H W 3"],
        level: Float[Array, "B"],
        condition: Condition,
        train: bool = False,
    ) -> Float[Array, "B H W 3"]:
        """The noise in the state z, as float32."""


NETWORKS: dict[str, type[Network]] = {"sr3": SR3UNet, "srdiff": SRDiffUNet, "rrdb": RRDBNet}


def make_network(name: str, values: Mapping[str, Any]) -> Network:
    """The network called `name`, with those of the values that are its hyper-parameters."""
    network = NETWORKS[name]
    fields = {field.name for field in dataclasses.fields(network)} - {"name", "parent"}
    return network(**{key: value for key, value in values.items() if key in fields})
