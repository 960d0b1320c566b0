"""The held-out examples that methods are compared on."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int

from yoda_jax.attention.maps import Reading
from yoda_jax.data.batches import Batch, spread, whole
from yoda_jax.data.records import Records


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """At most `count` examples, evenly spread over records, in batches that processes share out.

    A picture's position is its index in this set. batch_size counts all processes' rows.
    """

    records: Records
    count: int
    batch_size: int
    reading: Reading

    @functools.cached_property
    def indices(self) -> list[int]:
        """The index of each example in the records; it is what a sample's noise is drawn from."""
        return spread(self.count, len(self.records))

    @functools.cached_property
    def names(self) -> list[str]:
        """The name of the picture that each example was cut from."""
        return [self.records[i]["name"] for i in self.indices]

    def rows(self, positions: Iterable[int]) -> Batch:
        """hr, lr and attention of the examples at some positions."""
        indices = [self.indices[i] for i in positions]
        return whole(self.records, indices, self.reading)

    def batches(
        self, process_index: int, process_count: int
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"], Batch]]:
        """(a process's positions, which of them count, their rows) of every batch.

        The last batch is filled up with the last example, so that all processes take equal parts.
        """
        share, last = self.batch_size // process_count, len(self.indices) - 1
        for start in range(0, last + 1, self.batch_size):
            mine = start + process_index * share + np.arange(share)
            positions = np.minimum(mine, last)
            yield positions, mine <= last, self.rows(positions)
