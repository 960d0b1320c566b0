"""Sampling batches of pictures on the devices, in portions that the host can watch."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, UInt8

from yoda_jax.errors import UserError
from yoda_jax.regression import Regression
from yoda_jax.training.sharding import by_rows, place
from yoda_jax.training.state import Params
from yoda_jax.yoda import Yoda

PORTIONS = 10


class BatchSampler:
    """Samples SR pictures of LR batches; the state stays on the devices until it is finished.

    A picture's noise depends on the seed and the picture's id alone, not on its batch.
    """

    def __init__(self, method: Yoda | Regression, mesh: Mesh) -> None:
        self.mesh = mesh
        steps = np.arange(method.sampling_steps, 0, -1, dtype=np.int32)
        self._portions = np.array_split(steps, min(PORTIONS, len(steps)))

        def keys(seed: Int[Array, ""], ids: Int[Array, "B"]) -> Key[Array, "B"]:
            return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(ids)

        rows = by_rows(mesh)
        self._condition = jax.jit(method.condition, out_shardings=rows)
        self._start = jax.jit(
            lambda seed, ids, lr: method.start(keys(seed, ids), lr), out_shardings=rows
        )
        self._advance = jax.jit(
            lambda params, condition, seed, ids, lr, attention, z, steps: method.advance(
                params, condition, keys(seed, ids), lr, attention, z, steps
            ),
            donate_argnums=6,
            out_shardings=rows,
        )
        self._finish = jax.jit(method.finish, out_shardings=rows)

    def __call__(
        self,
        params: Params,
        ids: np.ndarray,
        rows: Mapping[str, np.ndarray],
        seed: int,
        progress: Callable[[float], None] = lambda share: None,
    ) -> UInt8[np.ndarray, "b H W 3"]:
        """SR of this process's rows {lr, attention}, one id a row, with as many rows a process.

        progress is told the share of steps done. Raises UserError where a sample is not finite.
        """
        batch = place(self.mesh, {"ids": ids.astype(np.int32), **rows})
        ids, lr, attention = batch["ids"], batch["lr"], batch["attention"]
        condition, z = self._condition(params, lr), self._start(seed, ids, lr)
        for i, steps in enumerate(self._portions):
            z = self._advance(params, condition, seed, ids, lr, attention, z, steps)
            z.block_until_ready()
            progress((i + 1) / len(self._portions))
        pictures, finite = self._finish(lr, z)
        if not local_rows(finite).all():
            raise UserError(
                "A sample holds NaN or infinity, expected finite values: the weights have "
                "diverged; use an earlier checkpoint or a smaller learning rate."
            )
        return local_rows(pictures)


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is shared out by rows, in order."""
    shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
