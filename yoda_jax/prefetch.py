"""Results in order, computed a few ahead in threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def prefetch(
    make: Callable[[_Item], _Result], items: Iterable[_Item], depth: int = 2
) -> Iterator[_Result]:
    """make(item) for each item in order, computed up to `depth` items ahead in as many threads.

    Raises what `make` raises, in its item's turn.
    """
    with concurrent.futures.ThreadPoolExecutor(depth) as pool:
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
