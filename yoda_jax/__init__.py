"""YODA: area-masked diffusion super-resolution in JAX."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yoda_jax.upscaler import Upscaler as Upscaler


def __getattr__(name: str) -> object:
    """`Upscaler`, loaded when it is first asked for."""
    if name == "Upscaler":
        from yoda_jax.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module 'yoda_jax' has no attribute {name!r}")
