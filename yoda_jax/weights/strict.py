"""Parameters to and from entries under the names of others: all of them or none."""

import re
from collections.abc import Callable, Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from yoda_jax.errors import UserError

Path = tuple[str, ...]
Axes = Callable[[Path, int], tuple[int, ...]]


def channels_last(path: Path, ndim: int) -> tuple[int, ...]:
    """The order of PyTorch's axes in ours: OIHW to HWIO, (out, in) to (in, out); vectors stay."""
    del path  # the same for every layer
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def renamed(name: str, rules: Mapping[str, str]) -> str:
    """A name after each rule in turn: what matches a pattern becomes its replacement."""
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def load(
    what: str,
    entries: Mapping[str, np.ndarray],
    names: Mapping[Path, str],
    params: Mapping,
    advice: str,
    axes: Axes = channels_last,
) -> dict:
    """Nested parameters of the shapes of `params`, each from the entry of its name.

    An entry's axes are brought to the order that `axes` gives for a path and a rank. `what` (a
    plural) and `advice` begin and end the error's sentence. Raises UserError where an entry is
    missing, left over, misshapen or not of finite floating numbers, naming the first five.
    """
    known = set(names.values())
    wrong = [f"{name} is missing" for name in names.values() if name not in entries]
    wrong += [f"{name} is unknown" for name in entries if name not in known]
    loaded, broken, shapes = {}, [], flatten_dict(params)
    for path, name in names.items():
        if name not in entries:
            continue
        entry, shape = np.asarray(entries[name]), shapes[path].shape
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
    params: Mapping, names: Mapping[Path, str], axes: Axes = channels_last
) -> dict[str, np.ndarray]:
    """The inverse of `load`: contiguous entries under their names, in PyTorch's order of axes."""
    flat = {path: np.asarray(value) for path, value in flatten_dict(params).items()}
    return {
        name: np.ascontiguousarray(flat[path].transpose(np.argsort(axes(path, flat[path].ndim))))
        for path, name in names.items()
    }
