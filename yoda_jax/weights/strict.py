"""Loading entries of a checkpoint into parameters: all of them or none."""

from collections.abc import Callable, Mapping

import numpy as np
from flax.traverse_util import unflatten_dict

from yoda_jax.errors import UserError

Path = tuple[str, ...]
Axes = tuple[int, ...]


def channels_last(path: Path, ndim: int) -> Axes:
    """The order of PyTorch's axes in ours: OIHW to HWIO, (out, in) to (in, out); vectors stay."""
    del path  # the same for every layer
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def load(
    what: str,
    entries: Mapping[str, np.ndarray],
    names: Mapping[Path, str],
    shapes: Mapping[Path, tuple[int, ...]],
    advice: str,
    axes: Callable[[Path, int], Axes] = channels_last,
) -> dict:
    """Nested parameters from entries, each turned to the order `axes` gives for its path and rank.

    names and shapes hold the entry's name and our shape of every parameter; `what` (a plural) and
    `advice` begin and end the error's sentence. Raises UserError where an entry is missing, left
    over, misshapen or not of finite floating numbers, naming the first five.
    """
    known = set(names.values())
    wrong = [f"{name} is missing" for name in names.values() if name not in entries]
    wrong += [f"{name} is unknown" for name in entries if name not in known]
    loaded, broken = {}, []
    for path, name in names.items():
        if name not in entries:
            continue
        entry, shape = np.asarray(entries[name]), shapes[path]
        order = axes(path, len(shape))
        expected = tuple(shape[axis] for axis in np.argsort(order))
        if entry.shape != expected:
            wrong.append(f"{name} has the shape {entry.shape}, expected {expected}")
        elif entry.dtype.kind != "f":
            wrong.append(f"{name} holds {entry.dtype}, expected floating numbers")
        elif not np.isfinite(entry).all():
            broken.append(name)
        else:
            loaded[path] = entry.transpose(order)
    if wrong:
        raise UserError(
            f"{what} do not fit the network in {len(wrong)} places: {'; '.join(wrong[:5])}; "
            f"{advice}."
        )
    if broken:
        raise UserError(
            f"{what} must be finite, found NaN or infinite numbers in {len(broken)} of them: "
            f"{', '.join(broken[:5])}; take a file from before its training diverged."
        )
    return unflatten_dict(loaded)


def unload(
    params: Mapping[Path, np.ndarray],
    names: Mapping[Path, str],
    axes: Callable[[Path, int], Axes] = channels_last,
) -> dict[str, np.ndarray]:
    """Entries under their names and in PyTorch's order, from parameters: the inverse of `load`."""
    entries = {}
    for path, name in names.items():
        value = np.asarray(params[path])
        entries[name] = np.ascontiguousarray(value.transpose(np.argsort(axes(path, value.ndim))))
    return entries
