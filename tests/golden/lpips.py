"""The public LPIPS's own state dict as parameters of ours."""

import jax.numpy as jnp
import numpy as np

TRUNK = ("net.slice1.0", "net.slice2.3", "net.slice3.6", "net.slice4.8", "net.slice5.10")


def from_reference(entries):
    """Kernels turn from OIHW to HWIO, heads (1, C, 1, 1) are flattened."""
    return {
        "convs": [
            {
                "kernel": jnp.asarray(np.transpose(entries[f"{name}.weight"], (2, 3, 1, 0))),
                "bias": jnp.asarray(entries[f"{name}.bias"]),
            }
            for name in TRUNK
        ],
        "heads": [
            jnp.asarray(entries[f"lin{k}.model.1.weight"], jnp.float32).ravel()
            for k in range(len(TRUNK))
        ],
    }
