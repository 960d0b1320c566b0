"""What the processes of a run do together: decide, wait for each other, and end together.

What lies on a disk may look different to each process. So one process looks, and tells the others:
two that part ways would wait for each other in different collectives for ever.
"""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from yoda_jax.errors import UserError

_Result = TypeVar("_Result")


def is_first() -> bool:
    """Whether this is the process that speaks and decides for all."""
    return jax.process_index() == 0


def together(step: Callable[[], _Result]) -> _Result:
    """Runs a step in every process and waits for all; where one fails, all end.

    Raises the step's own error, and in the other processes a UserError that names the one that
    failed.
    """
    failure: Exception | None = None
    result = None
    try:
        result = step()
    except Exception as error:  # raised again below, once the others know
        failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(failure is not None))
        if failure is None and failed.any():
            raise UserError(
                f"Process {int(failed.argmax())} could not do its part; its own message says why."
            )
    if failure is not None:
        raise failure
    return result


def decided(decide: Callable[[], _Result]) -> _Result:
    """What the first process decides, in every process; `decide` runs in that one alone.

    The result is any value that pickles. Where it fails, all end as with `together`.
    """
    result = together(lambda: decide() if is_first() else None)
    if jax.process_count() == 1:
        return result
    # Broadcasting knows arrays of one shape only: the length goes ahead of the bytes.
    data = np.frombuffer(pickle.dumps(result), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int64(data.size)))
    padded = np.zeros(size, np.uint8)
    padded[: data.size if is_first() else 0] = data if is_first() else []
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
