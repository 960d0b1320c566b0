"""What is diffused: the picture itself (SR3) or its residual (SRDiff)."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from yoda_jax.arrays import Pictures


@dataclasses.dataclass(frozen=True)
class Formulation:
    """Three functions on pictures in [-1, 1]; the only difference between the base methods.

    encode(hr, lr_up) is the clean target y0, base(lr_up) what stands outside the mask, and
    decode(y0, lr_up) the picture that belongs to a target.
    """

    encode: Callable[[Pictures, Pictures], Pictures]
    base: Callable[[Pictures], Pictures]
    decode: Callable[[Pictures, Pictures], Pictures]


def _residual(hr: Pictures, lr_up: Pictures) -> Pictures:
    return jnp.clip(2.0 * (hr - lr_up), -1.0, 1.0)


def _add_residual(y0: Pictures, lr_up: Pictures) -> Pictures:
    return jnp.clip(y0, -1.0, 1.0) / 2.0 + lr_up


# SR3 diffuses the picture (arXiv 2104.07636), SRDiff twice the residual (arXiv 2104.14951).
SR3 = Formulation(
    encode=lambda hr, lr_up: hr, base=lambda lr_up: lr_up, decode=lambda y0, lr_up: y0
)
SRDIFF = Formulation(encode=_residual, base=jnp.zeros_like, decode=_add_residual)

FORMULATIONS = {"sr3": SR3, "srdiff": SRDIFF}
