"""Sampling batches of pictures on the devices of all processes."""

from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Key, UInt8

from yoda_jax.arrays import Array
from yoda_jax.errors import UserError
from yoda_jax.method import Method, Progress
from yoda_jax.training.sharding import by_rows, share_out
from yoda_jax.training.state import Params


def sample_rows(
    method: Method,
    mesh: Mesh,
    params: Params,
    ids: Int[np.ndarray, " b"],
    rows: Mapping[str, np.ndarray],
    seed: int,
    progress: Progress = lambda share: None,
) -> UInt8[np.ndarray, "b H W 3"]:
    """SR of this process's rows {lr, attention}, one id a row, with as many rows a process.

    A picture's noise depends on the seed and its id alone, not on its batch. Raises UserError, in
    every process, where a sample is not finite.
    """
    inputs = {"lr": rows["lr"], "attention": rows["attention"]}
    batch = share_out(mesh, {"ids": ids.astype(np.int32), **inputs})
    keys = _keys(mesh, seed, batch["ids"])
    pictures, finite = method.sample(params, keys, batch["lr"], batch["attention"], progress)
    if not finite:
        raise UserError(
            "A sample holds NaN or infinity, expected finite values: the weights have "
            "diverged; use an earlier checkpoint or a smaller learning rate."
        )
    return local_rows(pictures)


@partial(jax.jit, static_argnums=0)
def _keys(mesh: Mesh, seed: Int[Array, ""], ids: Int[Array, "B"]) -> Key[Array, "B"]:
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(ids)
    return jax.lax.with_sharding_constraint(keys, by_rows(mesh))


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is cut by rows, in order."""
    shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
