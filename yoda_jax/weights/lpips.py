"""The packaged weights of LPIPS v0.1 with the AlexNet trunk."""

from importlib import resources

import jax.numpy as jnp
import numpy as np


def load_lpips_alex() -> dict[str, list]:
    """The packaged weights as parameters of `yoda_jax.evaluation.perceptual.lpips`.

    Returns {"convs": five {"kernel": (h, w, I, O), "bias": (O,)}, "heads": five (O,)}, float32; the
    kernels were rounded to half precision for the package. Origin and licences: LICENSES.md beside
    this file.
    """
    with resources.files(__package__).joinpath("lpips_alex_f16.npz").open("rb") as file:
        entries = {name: jnp.asarray(value, jnp.float32) for name, value in np.load(file).items()}
    convs = [{"kernel": entries[f"conv{k}_w"], "bias": entries[f"conv{k}_b"]} for k in range(5)]
    return {"convs": convs, "heads": [entries[f"lin{k}_w"] for k in range(5)]}
