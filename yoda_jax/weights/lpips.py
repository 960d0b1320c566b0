"""Weights of LPIPS v0.1 with the AlexNet trunk, packaged or from the reference's state dict."""

from collections.abc import Mapping
from importlib import resources

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from yoda_jax.errors import UserError

PACKAGED = "lpips_alex_f16.npz"
# Names in the reference's state dict, with torchvision's shapes (O, I, kernel, kernel).
TRUNK = {
    "net.slice1.0": (64, 3, 11, 11),
    "net.slice2.3": (192, 64, 5, 5),
    "net.slice3.6": (384, 192, 3, 3),
    "net.slice4.8": (256, 384, 3, 3),
    "net.slice5.10": (256, 256, 3, 3),
}
SHAPES = (
    {f"{name}.weight": shape for name, shape in TRUNK.items()}
    | {f"{name}.bias": shape[:1] for name, shape in TRUNK.items()}
    | {f"lin{k}.model.1.weight": (1, s[0], 1, 1) for k, s in enumerate(TRUNK.values())}
)
# A whole state dict also lists the heads a second time and the two constants of the input scaling.
REPEATED = {"scaling_layer.shift", "scaling_layer.scale"} | {
    f"lins.{k}.model.1.weight" for k in range(len(TRUNK))
}


def load_lpips_alex() -> dict[str, list]:
    """The packaged weights as parameters of `yoda_jax.evaluation.perceptual.lpips`.

    Returns {"convs": five {"kernel": (h, w, I, O), "bias": (O,)}, "heads": five (O,)}, float32; the
    kernels were rounded to half precision for the package. Origin and licences: LICENSES.md beside
    this file.
    """
    with resources.files(__package__).joinpath(PACKAGED).open("rb") as file:
        entries = dict(np.load(file, allow_pickle=False))
    layers = range(len(TRUNK))
    return {
        "convs": [
            {"kernel": _float32(entries[f"conv{k}_w"]), "bias": _float32(entries[f"conv{k}_b"])}
            for k in layers
        ],
        "heads": [_float32(entries[f"lin{k}_w"]) for k in layers],
    }


def from_reference(entries: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Parameters from the entries of the reference's `LPIPS(net="alex")` state dict.

    entries maps `net.slice<k>.<i>.weight` (O, I, h, w), `.bias` (O,) and `lin<k>.model.1.weight`
    (1, C, 1, 1) to arrays; the copies of the heads and the constants that a whole state dict holds
    besides may be there. Returns what `load_lpips_alex` returns. Raises UserError where an entry is
    missing, unknown or misshapen. Source: lpips/lpips.py and lpips/pretrained_networks.py of
    richzhang/PerceptualSimilarity.
    """
    _check_entries(entries)
    return {
        "convs": [
            {
                "kernel": _float32(np.transpose(entries[f"{name}.weight"], (2, 3, 1, 0))),
                "bias": _float32(entries[f"{name}.bias"]),
            }
            for name in TRUNK
        ],
        "heads": [_float32(entries[f"lin{k}.model.1.weight"]).ravel() for k in range(len(TRUNK))],
    }


def _check_entries(entries: Mapping[str, np.ndarray]) -> None:
    faults = [f"{name} missing" for name in SHAPES if name not in entries]
    faults += [f"{name} unknown" for name in entries if name not in SHAPES.keys() | REPEATED]
    faults += [
        f"{name} of shape {np.shape(entries[name])} instead of {shape}"
        for name, shape in SHAPES.items()
        if name in entries and np.shape(entries[name]) != shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError(
            f"LPIPS weights: expected the {len(SHAPES)} entries of LPIPS v0.1 with the AlexNet "
            f"trunk, found {', '.join(faults[:5])}{more}; "
            "pass the whole state dict of the reference's LPIPS(net='alex')"
        )


def _float32(array: np.ndarray) -> Float[Array, "..."]:
    return jnp.asarray(array, jnp.float32)
