"""The weight recipe behind the golden files: the same seeded draw for any list of entries."""

import numpy as np


def recipe(
    keys_shapes: list[tuple[str, tuple[int, ...]]], seed: int, gain: float = 2**0.5
) -> dict[str, np.ndarray]:
    """Draws one array per entry, in order, from a numpy PCG64 stream; names decide the scale."""
    rng = np.random.default_rng(seed)
    entries = {}
    for name, shape in keys_shapes:
        if name.endswith("num_batches_tracked"):
            entries[name] = np.zeros(shape, np.int64)
            continue
        z = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("running_var"):
            value = 1 + 0.3 * np.abs(z)
        elif name.endswith("running_mean"):
            value = 0.1 * z
        elif name.endswith(("pos_embed", "cls_token")):
            value = 0.5 * z
        elif name.endswith("conv_last.bias"):
            value = 0.5 + 0.1 * z
        elif name.endswith("conv_last.weight"):
            value = z * np.float32(0.3 / np.sqrt(np.prod(shape[1:])))
        elif len(shape) >= 2:
            value = z * np.float32(gain / np.sqrt(np.prod(shape[1:])))
        elif name.endswith(".weight"):
            value = 1 + 0.1 * z
        elif name.endswith(".g"):
            value = 0.5 + 0.1 * z
        else:
            value = 0.1 * z
        entries[name] = value.astype(np.float32)
    return entries
