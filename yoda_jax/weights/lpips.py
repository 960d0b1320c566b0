"""The packaged weights of LPIPS v0.1 with the AlexNet trunk."""

from importlib import resources

import jax.numpy as jnp
import numpy as np

PACKAGED = "lpips_alex_f16.npz"


def load_lpips_alex() -> dict[str, list]:
    """The packaged weights as parameters of `yoda_jax.evaluation.perceptual.lpips`.

    Returns {"convs": five {"kernel": (h, w, I, O), "bias": (O,)}, "heads": five (O,)}, float32; the
    kernels were rounded to half precision for the package. Origin and licences: LICENSES.md beside
    this file.
    """
    with resources.files(__package__).joinpath(PACKAGED).open("rb") as file:
        entries = dict(np.load(file, allow_pickle=False))
    layers = range(5)

    def of(name: str) -> jnp.ndarray:
        return jnp.asarray(entries[name], jnp.float32)

    return {
        "convs": [{"kernel": of(f"conv{k}_w"), "bias": of(f"conv{k}_b")} for k in layers],
        "heads": [of(f"lin{k}_w") for k in layers],
    }
