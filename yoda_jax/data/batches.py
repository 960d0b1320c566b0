"""Batches as a pure function of (seed, step): resumable, and shared out over processes."""

import concurrent.futures
import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from yoda_jax.attention.maps import Reading, attention_map
from yoda_jax.errors import UserError

Batch = dict[str, np.ndarray]


class Examples(Protocol):
    """Examples that can be read at random, as `records.Records`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class Batches:
    """Makes the batch of any step from examples that can be read at random.

    Every epoch is a permutation drawn from (seed, epoch); flips and crops of an example are drawn
    from (seed, turn in the sequence of all examples). A batch holds `hr` (B H W 3), `lr` (B h w 3)
    and `attention` (B H W 1), all uint8, with the attention cropped and flipped like the picture.

    Process i of n gets rows [i B / n, (i + 1) B / n): together they are the batch that one process
    would get. patch 0 takes examples whole, else a random square of that many HR pixels.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        seed: int,
        reading: Reading,
        patch: int = 0,
        flip: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 4,
    ) -> None:
        if batch_size % process_count:
            raise UserError(
                f"train.batch_size={batch_size} must be divisible by the {process_count} processes."
            )
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.reading = reading
        self.patch = patch
        self.flip = flip
        share = batch_size // process_count
        self.rows = range(process_index * share, (process_index + 1) * share)
        self.threads = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)

    def __call__(self, step: int) -> Batch:
        """This process's rows of the batch of a step (the first step is 0)."""
        turns = [step * self.batch_size + row for row in self.rows]
        # A stretch for each thread: handing over every example would hold all of them up.
        share = -(-len(turns) // self.threads)
        stretches = [turns[i : i + share] for i in range(0, len(turns), share)]
        made = self._pool.map(lambda some: [self._training_example(t) for t in some], stretches)
        return stack([example for examples in made for example in examples])

    def _training_example(self, turn: int) -> Batch:
        epoch, position = divmod(turn, len(self.examples))
        order = epoch_order(self.seed, epoch, len(self.examples))
        example = self.examples[int(order[position])]
        rng = np.random.default_rng([self.seed, 1, turn])
        height, width = example["hr"].shape[:2]
        scale = height // example["lr"].shape[0]
        if not self.patch:
            corner, size = (0, 0), (height, width)
        else:
            if self.patch > min(height, width) or self.patch % scale:
                raise UserError(
                    f"data.patch={self.patch} must divide by the scale {scale} and fit into the "
                    f"records' {width}x{height} pixels; change it, or data.hr_size."
                )
            size = (self.patch, self.patch)
            corner = tuple(
                scale * int(rng.integers((extent - self.patch) // scale + 1))
                for extent in (height, width)
            )
        rows = cut(example, self.reading, corner, size)
        if self.flip and rng.random() < 0.5:
            rows = {key: value[:, ::-1] for key, value in rows.items()}
        return rows


def cut(
    example: dict,
    reading: Reading,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> Batch:
    """A rectangle of an example (the whole of it without a size), with its part of the attention.

    The attention is that of the whole picture which the example was cut from.
    """
    height, width = size or example["hr"].shape[:2]
    y, x = corner
    scale = example["hr"].shape[0] // example["lr"].shape[0]
    top, left, picture_height, picture_width = (int(v) for v in example["place"])
    attention = attention_map(
        example["attention"],
        example["attention_scale"],
        (picture_height, picture_width),
        reading,
        (top + y, left + x, height, width),
    )
    return {
        "hr": example["hr"][y : y + height, x : x + width],
        "lr": example["lr"][y // scale : (y + height) // scale, x // scale : (x + width) // scale],
        "attention": attention,
    }


def whole(examples: Examples, indices: Sequence[int], reading: Reading) -> Batch:
    """A batch of examples by index, neither cropped nor flipped, as evaluation needs them."""
    return stack([cut(examples[i], reading) for i in indices])


def maps(
    examples: Examples, indices: Sequence[int], reading: Reading
) -> UInt8[np.ndarray, "B H W 1"]:
    """A of examples, in 8 bits."""
    return np.stack([cut(examples[i], reading)["attention"] for i in indices])


def spread(count: int, length: int) -> list[int]:
    """At most `count` of range(length): the centres of equal stretches."""
    count = min(count, length)
    return [int((i + 0.5) * length / count) for i in range(count)]


@functools.lru_cache(maxsize=2)  # a batch may span two epochs
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch visits its examples, a permutation of range(count)."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def stack(cuts: Sequence[Batch]) -> Batch:
    """Stacks the examples of a batch; raises UserError where their sizes differ."""
    sizes = {cut["hr"].shape[:2] for cut in cuts}
    if len(sizes) > 1:
        raise UserError(
            f"The records' pictures differ in size ({sorted(sizes)[:3]}); set data.patch to a size "
            "that all of them hold."
        )
    return {key: np.stack([cut[key] for cut in cuts]) for key in cuts[0]}
